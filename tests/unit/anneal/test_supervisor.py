"""The supervisor, with real processes: small scripts that behave as they are told."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from anneal.up.supervisor import Program, StartFailed, Supervisor

STAYS = "import time; print('up', flush=True); time.sleep(60)"


class Notes:
    """An audience that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.events: list[tuple[str, ...]] = []

    def line(self, name: str, text: str) -> None:
        self.lines.append((name, text))

    def ready(self, name: str) -> None:
        self.events.append(("ready", name))

    def died(self, name: str, exit_code: int, pause_s: float) -> None:
        self.events.append(("died", name, str(exit_code)))

    def killed(self, name: str) -> None:
        self.events.append(("killed", name))


@pytest.fixture
def notes() -> Notes:
    return Notes()


def script(
    name: str, code: str, *, stage: int = 0, is_ready: Callable[[], bool] = lambda: True
) -> Program:
    return Program(name, (sys.executable, "-c", code), dict(os.environ), is_ready, stage)


def stopping(marks: Path, name: str) -> str:
    """A program that writes its name to `marks` when it is asked to stop."""
    return (
        "import signal, sys, time\n"
        "def stop(*_):\n"
        f"    open({str(marks)!r}, 'a').write({name!r} + '\\n')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )


def wait_until(is_true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_program_starts_only_when_those_before_it_are_ready(notes: Notes) -> None:
    first_up = [False]
    supervisor = Supervisor(
        [
            script("first", STAYS, is_ready=lambda: first_up[0]),
            script("second", STAYS, stage=1),
        ],
        notes,
    )
    starting = Thread(target=supervisor.start)
    starting.start()
    wait_until(lambda: ("first", "up") in notes.lines)
    assert "second" not in supervisor.pids()
    first_up[0] = True
    starting.join(20)
    assert notes.events == [("ready", "first"), ("ready", "second")]
    supervisor.stop()


def test_programs_stop_in_reverse_order_and_leave_nothing(tmp_path: Path, notes: Notes) -> None:
    marks = tmp_path / "marks"
    names = ["nats", "service", "node"]
    supervisor = Supervisor(
        [script(name, stopping(marks, name), stage=i) for i, name in enumerate(names)], notes
    )
    supervisor.start()
    wait_until(lambda: len(notes.lines) == 3)
    pids = supervisor.pids().values()
    supervisor.stop()
    assert marks.read_text().split() == ["node", "service", "nats"]
    assert not any(is_alive(pid) for pid in pids)


def test_a_program_that_is_killed_is_started_again(notes: Notes) -> None:
    supervisor = Supervisor([script("trainer", STAYS)], notes)
    supervisor.start()
    first = supervisor.pids()["trainer"]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: notes.events.count(("ready", "trainer")) == 2)
    assert notes.events[1] == ("died", "trainer", "-9")
    assert supervisor.pids()["trainer"] != first
    supervisor.stop()


def test_a_program_that_never_stays_up_stops_everything(notes: Notes) -> None:
    supervisor = Supervisor(
        [
            script("nats", STAYS),
            script(
                "dataset",
                "print('no database'); raise SystemExit(1)",
                stage=1,
                is_ready=lambda: False,
            ),
        ],
        notes,
    )
    with pytest.raises(
        StartFailed, match=r"dataset does not stay up \(exit code 1, 5 times\); it said: no"
    ) as failed:
        supervisor.start()
    assert failed.value.last_lines[-1] == "no database"
    assert notes.events.count(("died", "dataset", "1")) == 4
    assert supervisor.pids() == {}


def test_what_ignores_the_request_is_killed_with_its_children(notes: Notes) -> None:
    deaf = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    supervisor = Supervisor([script("deaf", deaf)], notes, grace_s=0.3)
    supervisor.start()
    wait_until(lambda: len(notes.lines) == 1)
    grandchild = int(notes.lines[0][1])
    supervisor.stop()
    assert notes.events[-1] == ("killed", "deaf")
    wait_until(lambda: not is_alive(grandchild) or _is_zombie(grandchild))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_children_end_when_the_supervising_process_is_killed(tmp_path: Path) -> None:
    marks = tmp_path / "pid"
    parent = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from anneal.up.platform import Silence\n"
        "from anneal.up.supervisor import Program, Supervisor\n"
        f"s = Supervisor([Program('a', (sys.executable, '-c', {STAYS!r}), {{}}, lambda: True)],"
        " Silence())\n"
        "s.start()\n"
        f"Path({str(marks)!r}).write_text(str(s.pids()['a']))\n"
        "s.wait()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    wait_until(lambda: marks.exists() and marks.read_text() != "")
    child = int(marks.read_text())
    time.sleep(0.3)
    process.kill()
    process.wait()
    wait_until(lambda: not is_alive(child) or _is_zombie(child))


def _is_zombie(pid: int) -> bool:
    """In a container nobody may reap orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
