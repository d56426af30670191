"""What the pages say that code can hold them to."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from anneal.cli.exits import MEANINGS
from anneal.cli.tuning import MESSAGES, Method, option_of
from services.trainer.control.domain.settings import checked_settings

ROOT = Path(__file__).parents[2]
NOT_OURS = {"build", "dist", "anneal-data", "node_modules"}
EXIT_CODE = re.compile(r"^\| (\d+) \| (.+) \|$", re.MULTILINE)
METHOD = re.compile(r"^\| `(\w+)`[^|]*\|[^|]*\|([^|]*)\| (\S+) \|$", re.MULTILINE)
OPTION = re.compile(r"`(--[\w-]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ELSEWHERE = ("http://", "https://", "mailto:", "#")


def pages(directory: Path = ROOT) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or path.name in NOT_OURS or path.is_symlink():
            continue
        if path.is_dir():
            yield from pages(path)
        elif path.suffix == ".md":
            yield path


def test_the_exit_codes_are_those_of_the_command() -> None:
    table = EXIT_CODE.findall((ROOT / "docs" / "cli.md").read_text("utf-8"))
    assert {int(code): meaning for code, meaning in table} == {
        int(code): meaning for code, meaning in MEANINGS.items()
    }


def test_the_methods_and_their_options_are_those_of_the_command() -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    rows = METHOD.findall(page)
    assert [name for name, _, _ in rows] == [str(method) for method in MESSAGES]
    for name, options, rate in rows:
        told = OPTION.findall(options)
        fields = [field.name for field in MESSAGES[Method(name)].DESCRIPTOR.fields]
        assert told == [option_of(field) for field in fields]
        assert float(rate) == checked_settings({"method": {"kind": name}}).training.learning_rate


@pytest.mark.parametrize("page", [*pages()], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text("utf-8"))
    paths = [link.partition("#")[0] for link in links if not link.startswith(ELSEWHERE)]
    assert [path for path in paths if not (page.parent / path).exists()] == []
