"""Failpoints do what the environment says, once it is understood, and nothing else."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.common.failpoints import (
    EXIT_CODE,
    FAILPOINTS,
    VARIABLE,
    FailpointReached,
    arm,
    failpoint,
)
from services.common.faults import InvalidArgument
from services.common.testing.failpoints import armed

SERVICES = Path(__file__).parents[3] / "services"
CALL = re.compile(r'^ *failpoint\("([^"]+)"\)$', re.MULTILINE)
NAME = "outbox.published"


def test_every_failpoint_is_passed_in_one_place_and_described() -> None:
    passed = [name for path in SERVICES.rglob("*.py") for name in CALL.findall(path.read_text())]
    assert sorted(passed) == sorted(FAILPOINTS)
    assert all(FAILPOINTS.values())


def test_an_unarmed_failpoint_does_nothing() -> None:
    failpoint(NAME)
    with armed("outbox.marked=raise"):
        failpoint(NAME)


def test_an_armed_one_raises_every_time_and_no_more_afterwards() -> None:
    with armed(f"{NAME}=raise"):
        for _ in range(2):
            with pytest.raises(FailpointReached, match=NAME):
                failpoint(NAME)
    failpoint(NAME)


def test_a_turn_counts_the_passes() -> None:
    with armed(f"{NAME}=raise@2"):
        failpoint(NAME)
        with pytest.raises(FailpointReached):
            failpoint(NAME)
        failpoint(NAME)


def test_a_full_disk_is_raised_as_the_system_would() -> None:
    with armed(f"{NAME}=raise:ENOSPC"), pytest.raises(OSError, match="No space left on device"):
        failpoint(NAME)


def test_sleep_holds_the_thread() -> None:
    with armed(f"{NAME}=sleep:0.05"):
        began_s = time.monotonic()
        failpoint(NAME)
    assert time.monotonic() - began_s >= 0.05


def test_all_that_is_not_understood_is_told_at_once_and_nothing_is_armed() -> None:
    wrong = {
        "outbox.publishd=exit": "there is no such failpoint; there are store.committing",
        "nothing": "must be name=action",
        f"{NAME}=explode": "the action is exit, raise, raise:ENOSPC or sleep:SECONDS",
        f"{NAME}=sleep": "the action is exit, raise, raise:ENOSPC or sleep:SECONDS",
        f"{NAME}=sleep:long": "could not convert",
        f"{NAME}=raise:ENOTHING": "an OSError by its name",
        f"{NAME}=exit@0": "turns count from 1",
    }
    with pytest.raises(InvalidArgument) as refused:
        arm({VARIABLE: ", ".join([*wrong, f"{NAME}=raise"])})
    told = [violation.description for violation in refused.value.violations]
    assert len(told) == len(wrong)
    for text, (entry, why) in zip(told, wrong.items(), strict=True):
        assert text.startswith(f"'{entry}': {why}") or why in text
    failpoint(NAME)


PROGRAM = """
from services.common import process
from services.common.failpoints import failpoint
async def run():
    for turn in range(3):
        print(turn, flush=True)
        failpoint("outbox.published")
process.main(run)
"""


@pytest.mark.parametrize(
    ("armed_so", "code", "output", "error"),
    [
        ("outbox.published=exit@2", EXIT_CODE, "0\n1\n", ""),
        ("typo=exit", 1, "", "anneal: ANNEAL_FAILPOINTS: 'typo=exit': there is no such failpoint"),
    ],
)
def test_a_program_dies_there_or_refuses_to_start(
    armed_so: str, code: int, output: str, error: str
) -> None:
    environment = {VARIABLE: armed_so, "PYTHONPATH": str(SERVICES.parent)}
    argv = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert ended.stdout.endswith(output)
    assert ended.stderr.startswith(error)
    assert "Traceback" not in ended.stderr


def test_the_page_lists_them_all() -> None:
    page = (SERVICES.parent / "docs" / "reliability.md").read_text("utf-8")
    told = re.findall(r"^\| `(\w+\.\w+)` \| (.+) \|$", page, re.MULTILINE)
    assert told == [*FAILPOINTS.items()]
