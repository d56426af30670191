"""A tool as a child process: what it says, how it ends, and that it does end."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from services.trainer.backends.child import ToolExit, Watching, run_tool
from services.trainer.backends.inside import INSIDE
from services.trainer.engine.process import StopRequest
from tests.unit.trainer_backends.conftest import HERE

ROOT = HERE.parents[2]
PRELUDE = """
import json, os, signal, subprocess, sys, time

def report(line):
    told = json.loads(os.environ["ANNEAL_REPORTS"])
    os.write(told["descriptor"], line)
"""

Run = Callable[..., tuple[ToolExit, list[bytes]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a program of a few lines as a tool; returns its end and its reports."""

    def running(program: str, stop: StopRequest | None = None) -> tuple[ToolExit, list[bytes]]:
        reports: list[bytes] = []
        end = run_tool(
            [sys.executable, "-c", PRELUDE + dedent(program)],
            tmp_path,
            os.environ,
            Watching("axolotl", None, 5),
            reports.append,
            stop or StopRequest(),
        )
        return end, reports

    return running


def test_a_tool_is_told_what_to_report_of(run: Run) -> None:
    end, (line,) = run(r"report(os.environ['ANNEAL_REPORTS'].encode() + b'\n')")
    told = json.loads(line)
    assert end.status == 0
    assert (told["tool"], told["held_out_file"], told["evaluate_every"]) == ("axolotl", None, 5)


def test_reports_come_whole_and_one_that_death_cuts_does_not_come(run: Run) -> None:
    end, reports = run(r"""
        report(b'{"one"')
        time.sleep(0.2)
        report(b': 1}\n{"two": 2}\n{"thr')
        os._exit(7)
    """)
    assert reports == [b'{"one": 1}', b'{"two": 2}']
    assert end.status == 7


def test_the_last_words_are_kept_and_all_are_passed_on(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    end, _ = run(r"""
        for number in range(50):
            print("line", number)
        sys.stderr.write("10 %\r50 %\r100 %\n")
        sys.stdout.buffer.write(b"no utf-8: \xff\n")
    """)
    assert len(end.last_lines) == 20
    assert set(end.last_lines[-4:]) >= {"100 %", "no utf-8: \N{REPLACEMENT CHARACTER}"}
    said = capfd.readouterr().err
    assert "line 0\n" in said
    assert "50 %\n" in said


def test_an_end_by_a_signal_says_which(run: Run) -> None:
    end, _ = run("os.kill(os.getpid(), signal.SIGSEGV)")
    assert end.status == -11


def test_a_helper_that_the_tool_leaves_behind_holds_nothing_up(run: Run) -> None:
    started = time.monotonic()
    end, _ = run("subprocess.Popen(['sleep', '20'], close_fds=False)")
    assert end.status == 0
    assert time.monotonic() - started < 10


def test_a_request_to_stop_ends_the_tool(run: Run) -> None:
    stop = StopRequest()
    threading.Timer(0.5, lambda: setattr(stop, "requested", True)).start()
    end, _ = run("time.sleep(60)", stop)
    assert end.status == -15


def test_a_tool_that_does_not_heed_the_request_is_killed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.trainer.backends.child._GRACE_S", 0.5)
    stop = StopRequest()
    threading.Timer(1, lambda: setattr(stop, "requested", True)).start()
    end, _ = run("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", stop)
    assert end.status == -9


def test_a_tool_does_not_outlive_a_fault_of_whoever_hears_it(tmp_path: Path) -> None:
    def refuse(line: bytes) -> None:
        raise ValueError(line.decode())

    program = r"report(f'{os.getpid()}\n'.encode()); time.sleep(60)"
    with pytest.raises(ValueError, match=r"\d+") as caught:
        run_tool(
            [sys.executable, "-c", PRELUDE + program],
            tmp_path,
            os.environ,
            Watching("axolotl", None, 0),
            refuse,
            StopRequest(),
        )
    assert has_ended(int(str(caught.value)))


STARTS_AXOLOTL = """
import os, sys
from pathlib import Path
from services.trainer.backends.child import Watching, run_tool
from services.trainer.engine.process import StopRequest

def tell(line):
    sys.stdout.buffer.write(line + b"\\n")
    sys.stdout.flush()

command = [sys.executable, sys.argv[1], "axolotl.yaml"]
run_tool(command, Path("."), os.environ, Watching("axolotl", None, 0), tell, StopRequest())
"""


def test_a_tool_does_not_outlive_a_program_that_is_killed(
    axolotl: Callable[..., None], tmp_path: Path
) -> None:
    axolotl([{"report": "it runs"}], hangs=True)
    (tmp_path / "axolotl.yaml").write_text("{}")
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_AXOLOTL, str(INSIDE / "anneal_axolotl.py")],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{HERE / 'fakes'}"},
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"it runs\n"
        (tool,) = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        program.kill()
    assert has_ended(int(tool))


def has_ended(pid: int) -> bool:
    """Whether the process ends, or ended; a zombie counts as ended."""
    for _ in range(100):
        try:
            if ") Z " in Path(f"/proc/{pid}/stat").read_text():
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False
