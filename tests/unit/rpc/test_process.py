"""How a program ends."""

import subprocess
import sys
import time

import psutil
import pytest

from services.common import process
from services.common.faults import Unavailable


def test_a_fault_at_start_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        raise Unavailable("DEPENDENCY_DOWN", "the database\ndoes not answer")

    with pytest.raises(SystemExit) as ended:
        process.main(run)

    assert ended.value.code == 1
    assert capsys.readouterr().err == "anneal: the database does not answer\n"


def test_a_bug_keeps_its_traceback() -> None:
    async def run() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        process.main(run)


def test_a_program_that_returns_exits_with_0() -> None:
    async def run() -> None: ...

    with pytest.raises(SystemExit) as ended:
        process.main(run)

    assert ended.value.code == 0


CHILD = """
import sys, time
from services.common.process import die_with_parent
die_with_parent()
print("ready", flush=True)
time.sleep(60)
"""
PARENT = f"""
import os, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", {CHILD!r}],
    env=os.environ | {{"ANNEAL_DIE_WITH_PARENT": sys.argv[1]}},
    stdout=subprocess.PIPE,
)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child")
@pytest.mark.parametrize(("asked", "survives"), [("1", False), ("", True)])
def test_a_child_dies_with_a_killed_parent_if_it_was_asked_to(asked: str, survives: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, asked], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    try:
        assert alive(child, within_s=1 if survives else 10) == survives
    finally:
        if child.is_running():
            child.kill()


def alive(child: psutil.Process, within_s: float) -> bool:
    """Whether the process still runs after that time; returns at once when it ends."""
    ends_at = time.monotonic() + within_s
    while time.monotonic() < ends_at:
        if not child.is_running() or child.status() == psutil.STATUS_ZOMBIE:
            return False
        time.sleep(0.02)
    return True
