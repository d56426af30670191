"""What a node says of itself, with programs of a few lines in the place of its self-test."""

import asyncio
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from textwrap import dedent

import psutil
import pytest
from structlog.testing import capture_logs

from services.common.settings import ConfigError, read
from services.trainer.node.capabilities import About, SelfTest
from services.trainer.node.config import NodeConfig

PRELUDE = """
import json, os, sys, time

def begin(method):
    tell(method, None)

def tell(method, error=""):
    print(json.dumps({"method": method, "error": error}), flush=True)

"""
FIRST, SECOND = "lora", "qlora"


def running(program: str) -> Sequence[str]:
    return (sys.executable, "-c", PRELUDE + dedent(program))


async def outcome(program: str, limit_s: float = 20) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The methods that passed and those that failed."""
    test = SelfTest(1, limit_s, running(program))
    test.begin()
    await test.ended()
    return test.tested, test.failed


async def test_a_self_test_tells_which_methods_work() -> None:
    program = f"tell('{FIRST}'); tell('{SECOND}', 'ImportError: no bitsandbytes')"
    with capture_logs() as logs:
        assert await outcome(program) == ((FIRST,), (SECOND,))
    assert logs[-1]["failed"] == {SECOND: "ImportError: no bitsandbytes"}


async def test_a_method_that_kills_the_child_has_failed() -> None:
    program = f"begin('{FIRST}'); tell('{FIRST}'); begin('{SECOND}'); os.abort()"
    assert await outcome(program) == ((FIRST,), (SECOND,))


async def test_what_is_not_tried_in_time_is_neither() -> None:
    children = set(psutil.Process().children())
    program = f"tell('{FIRST}'); begin('{SECOND}'); time.sleep(60)"
    assert await outcome(program, limit_s=0.5) == ((FIRST,), ())
    assert set(psutil.Process().children()) <= children


async def test_a_child_that_speaks_another_language_fails_nothing() -> None:
    assert await outcome(f"tell('{FIRST}'); print('nonsense')") == ((FIRST,), ())
    assert await outcome(f"tell('{FIRST}'); print('{{}}')") == ((FIRST,), ())


async def test_a_self_test_gives_way_to_jobs_and_is_made_once(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    program = f"open({str(begun)!r}, 'a').write('x'); time.sleep(0.4); tell('{FIRST}')"
    test = SelfTest(1, 20, running(program))
    for _ in range(2):
        test.begin()
        while not begun.exists():
            await asyncio.sleep(0.01)
        test.interrupt()
        begun.unlink()
    assert test.tested == ()
    test.begin()
    await test.ended()
    test.begin()
    test.interrupt()
    assert (test.tested, begun.read_text()) == ((FIRST,), "x")


async def test_a_limit_of_0_tries_nothing() -> None:
    assert await outcome(f"tell('{FIRST}')", limit_s=0) == ((), ())


async def test_a_node_tells_the_versions_that_it_trains_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 570.86.15\necho 570.86.15\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    known = await About(device_count=2, engine_count=3).capabilities()
    assert (known.device_count, known.engine_count) == (2, 3)
    assert known.driver_version == "570.86.15"
    assert (known.torch_version, known.code_version) == (version("torch"), version("anneal"))
    driver.unlink()
    assert (await About().capabilities()).driver_version == ""


def configured(labels: str) -> NodeConfig:
    return read(NodeConfig, env={"ANNEAL_BLOBS_URL": "file:///b", "ANNEAL_LABELS": labels})


def test_labels_are_keys_and_values_with_commas_between() -> None:
    assert configured("gpu=h200, region=eu-west").labels_by_key() == {
        "gpu": "h200",
        "region": "eu-west",
    }
    assert read(NodeConfig, env={"ANNEAL_BLOBS_URL": "file:///b"}).labels_by_key() == {}


@pytest.mark.parametrize("labels", ["a=b,gpu", "a=b,gpu=", "a=b,=x", "a=b,gpu=a=b", "a=b,-a=b"])
def test_a_label_that_is_none_is_refused_at_the_start(labels: str) -> None:
    with pytest.raises(ConfigError, match=r"ANNEAL_LABELS.*label 2 must be key=value"):
        configured(labels)


def test_a_key_has_one_value() -> None:
    with pytest.raises(ConfigError, match="a key may have one value"):
        configured("gpu=h200,gpu=a100")
