"""Keeps programs running: starts them in order, restarts what dies, stops them in reverse."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Protocol

from anneal.up.child import Child

FAST_DEATH_S = 10.0
"""A program that dies younger than this has not come up."""

FAST_DEATHS_LIMIT = 5
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
GRACE_S = 15.0
LOOK_EVERY_S = 0.05
LAST_LINES = 20


@dataclass(frozen=True)
class Program:
    """What to run. `is_ready` asks, briefly, whether it does its work yet.

    It starts when all programs of lower stages are ready.
    """

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    is_ready: Callable[[], bool]
    stage: int = 0


class Audience(Protocol):
    """Who is told what happens, from several threads."""

    def line(self, name: str, text: str) -> None:
        """A program wrote a line."""
        ...

    def ready(self, name: str) -> None:
        """A program does its work: for the first time, or again after a restart."""
        ...

    def died(self, name: str, exit_code: int, pause_s: float) -> None:
        """A program died and is started again after a pause."""
        ...

    def killed(self, name: str) -> None:
        """A program did not stop in time and was killed."""
        ...


class StartFailed(Exception):
    """A program does not stay up. `last_lines` is what it wrote last."""

    def __init__(self, name: str, exit_code: int, last_lines: Sequence[str]) -> None:
        said = f"; it said: {last_lines[-1]}" if last_lines else ""
        super().__init__(
            f"{name} does not stay up ({cause(exit_code)}, {FAST_DEATHS_LIMIT} times){said}"
        )
        self.name = name
        self.last_lines = tuple(last_lines)


def cause(exit_code: int) -> str:
    """Returns an exit code in words; below 0 it is a signal."""
    return f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"


@dataclass
class _Member:
    """A program and how it fares. Only the supervisor's thread touches it, but for `last_lines`."""

    program: Program
    child: Child | None = None
    is_ready: bool = False
    fast_deaths: int = 0
    started_at: float = 0.0
    start_at: float = 0.0
    last_lines: deque[str] = field(default_factory=lambda: deque[str](maxlen=LAST_LINES))


class Supervisor:
    """Runs programs until `stop`, or until one of them does not stay up.

    One thread starts, watches and stops all of them, since a child on a leash ends with the
    thread that started it.
    """

    def __init__(
        self, programs: Sequence[Program], audience: Audience, grace_s: float = GRACE_S
    ) -> None:
        self._members = [_Member(program) for program in programs]
        self._audience = audience
        self._all_ready = Event()
        self._stop = Event()
        self._ended = Event()
        self._grace_s = grace_s
        self._failure: Exception | None = None
        self._thread = Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Starts everything and returns when all is ready, or when `stop` was called.

        Raises StartFailed, with everything stopped.
        """
        self._thread.start()
        while not self._all_ready.wait(LOOK_EVERY_S) and not self._ended.is_set():
            pass
        if self._failure is not None:
            raise self._failure

    def wait(self) -> None:
        """Returns after `stop`. Raises StartFailed when a program does not stay up."""
        while not self._ended.wait(1.0):  # a wait without end would hold up signals
            pass
        if self._failure is not None:
            raise self._failure

    def ask_to_stop(self) -> None:
        """Begins to stop everything; asked again, what still runs is killed. Safe in a signal."""
        if self._stop.is_set():
            self._grace_s = 0.0
        self._stop.set()

    def stop(self) -> None:
        """Stops everything, in reverse order, and returns when nothing is left."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def is_complete(self) -> bool:
        """Whether every program has been ready."""
        return self._all_ready.is_set()

    def pids(self) -> dict[str, int]:
        """Returns the process id of each program that runs."""
        return {m.program.name: m.child.pid for m in self._members if m.child is not None}

    def _run(self) -> None:
        try:
            while not self._stop.wait(LOOK_EVERY_S):
                self._look()
        except Exception as error:
            self._failure = error
        finally:
            for member in reversed(self._members):
                self._end(member)
            self._ended.set()

    def _look(self) -> None:
        stage = min((m.program.stage for m in self._members if not m.is_ready), default=None)
        if stage is None:
            self._all_ready.set()
        for member in self._members:
            self._tend(member, may_start=stage is None or member.program.stage <= stage)

    def _tend(self, member: _Member, *, may_start: bool) -> None:
        if member.child is None:
            if may_start and time.monotonic() >= member.start_at:
                self._start(member)
        elif (exit_code := member.child.exit_code()) is not None:
            self._mourn(member, member.child, exit_code)
        elif not member.is_ready and member.program.is_ready():
            member.is_ready = True
            self._audience.ready(member.program.name)

    def _start(self, member: _Member) -> None:
        program = member.program

        def on_line(text: str) -> None:
            member.last_lines.append(text)
            self._audience.line(program.name, text)

        member.started_at = time.monotonic()
        member.child = Child(program.argv, program.environment, on_line)

    def _mourn(self, member: _Member, child: Child, exit_code: int) -> None:
        """Plans the restart of a dead program. Raises StartFailed when it has died too often."""
        child.end()
        age_s = time.monotonic() - member.started_at
        member.child, member.is_ready = None, False
        member.fast_deaths = member.fast_deaths + 1 if age_s < FAST_DEATH_S else 1
        if member.fast_deaths >= FAST_DEATHS_LIMIT:
            raise StartFailed(member.program.name, exit_code, member.last_lines)
        pause_s = min(FIRST_PAUSE_S * 2 ** (member.fast_deaths - 1), LONGEST_PAUSE_S)
        member.start_at = time.monotonic() + pause_s
        self._audience.died(member.program.name, exit_code, pause_s)

    def _end(self, member: _Member) -> None:
        if member.child is None:
            return
        member.child.ask_to_stop()
        asked_at = time.monotonic()
        # The grace may shrink while we wait: see `ask_to_stop`.
        while member.child.is_running() and time.monotonic() < asked_at + self._grace_s:
            time.sleep(LOOK_EVERY_S)
        if not member.child.end():
            self._audience.killed(member.program.name)
        member.child = None
