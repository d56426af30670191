"""What the README tells a reader to type, typed: in order, against a real platform.

Left out: `make demo` and `make install`, which install; `anneal up`, which the fixture is.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from itertools import islice
from pathlib import Path

import pytest

from anneal import Platform
from tests.conftest import NO_IDLE_WORK

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
BINARIES = Path(sys.executable).parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = re.compile(r"127\.0\.0\.1:74(\d\d)")
SERVICES = {"01": "dataset", "02": "trainer", "03": "registry", "04": "inference", "05": "abtest"}

SMALLER = {
    "--max-steps 300": "--max-steps 4",
    "examples/support_heldout.jsonl": "heldout.jsonl",
    "from anneal import Client\n": (
        "from anneal import Client\n"
        "from anneal.trainer.v1.tuning_job_pb2 import TrainingParameters\n"
    ),
    'create(version.name, "tiny-base")': (
        'create(version.name, "tiny-base", training=TrainingParameters(max_steps=4))'
    ),
}
"""What takes less time here than in the README: steps of training, prompts to answer."""

TYPED = {"anneal abtest vote first --voter me": "left\nright\ntie\nb\n"}
"""What a command reads that asks a person."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory: where `examples` is, and the files that the README takes for given."""
    home = tmp_path_factory.mktemp("readme")
    (home / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    (home / "questions.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    with (ROOT / "examples" / "support_heldout.jsonl").open() as lines:
        (home / "heldout.jsonl").write_text("".join(islice(lines, 4)))
    return home


@pytest.fixture(scope="module")
def platform(home: Path) -> Generator[Platform]:
    environment = os.environ | NO_IDLE_WORK
    with Platform(home / "anneal-data", ephemeral=True, environment=environment) as platform:
        yield platform


@pytest.fixture(scope="module")
def readme(platform: Platform) -> str:
    """The README, with this platform's addresses and less to do."""
    text = (ROOT / "README.md").read_text("utf-8")
    for whole, smaller in SMALLER.items():
        assert whole in text, f"the README no longer says {whole!r}"
        text = text.replace(whole, smaller)
    return PORT.sub(lambda port: getattr(platform.addresses, SERVICES[port[1]]), text)


def blocks(text: str, language: str) -> Iterator[str]:
    return (block for found, block in FENCE.findall(text) if found == language)


def commands(text: str, *programs: str) -> list[str]:
    """The commands of all `sh` blocks that call one of the programs."""
    found: list[str] = []
    for block in blocks(text, "sh"):
        command = ""
        for line in block.splitlines():
            command = f"{command}\n{line}".strip()
            if is_complete(command):
                found.append(command)
                command = ""
        assert not command, f"ends in the middle: {command}"
    return [command for command in found if command.split()[0] in programs]


def is_complete(command: str) -> bool:
    try:
        return bool(shlex.split(command, comments=True)) and not command.endswith("\\")
    except ValueError:  # an open quote
        return False


def arguments(command: str) -> list[str]:
    return shlex.split(command.replace("\\\n", " "), comments=True)


def environment() -> Mapping[str, str]:
    rest = {key: value for key, value in os.environ.items() if not key.startswith("ANNEAL_")}
    return {**rest, "PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}"}


def run(argv: list[str], home: Path, typed: str = "") -> str:
    done = subprocess.run(
        argv, cwd=home, env=environment(), input=typed, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{shlex.join(argv)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def as_buf(grpcurl: str) -> list[str]:
    """The same call for `buf curl`, which comes with the virtual environment."""
    *options, address, method = arguments(grpcurl)[1:]
    listed = address == "list"
    if listed:
        address, method = options.pop(), ""
    options = [option for option in options if option != "-plaintext"]
    wanted = ["--list-methods"] if listed else options
    url = f"http://{address}/{method}".rstrip("/")
    return ["buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", *wanted, url]


def test_use_it(readme: str, home: Path) -> None:
    typed = [command for command in commands(readme, "anneal") if command != "anneal up"]
    said = {command: run(arguments(command), home, TYPED.get(command, "")) for command in typed}
    assert set(TYPED) <= said.keys()
    assert "SUCCEEDED" in next(out for command, out in said.items() if "job create" in command)
    assert "win rate" in said["anneal abtest report first"]


def test_from_python(readme: str, home: Path) -> None:
    (block,) = blocks(readme, "python")
    *steps, answer = run([sys.executable, "-c", block], home).splitlines()
    assert [line.split()[0] for line in steps[:4]] == ["1", "2", "3", "4"]
    assert answer


def test_with_buf(readme: str, home: Path) -> None:
    methods, *answers = (run(arguments(command), home) for command in commands(readme, "buf"))
    assert "anneal.dataset.v1.DatasetService/ListDatasets" in methods.splitlines()
    assert answers


def test_with_grpcurl_as_buf_would_say_it(readme: str, home: Path) -> None:
    calls = commands(readme, "grpcurl")
    named = {service for service in SERVICES.values() if f"anneal.{service}.v1" in str(calls)}
    assert named == set(SERVICES.values())
    for call in calls:
        assert run(as_buf(call), home)
