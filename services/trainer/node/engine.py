"""Runs the engine as a child process: starts it, reads its events, stops it, says how it ended."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process, SubprocessStreamProtocol
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar, cast

EngineEvent = Mapping[str, object]
"""One line of the engine's pipe: a JSON object told apart by its `type`."""

ENGINE = (sys.executable, "-P", "-m", "services.trainer.engine")
"""-P: a folder `services` in the working directory is not ours."""

S = TypeVar("S", asyncio.StreamReader, asyncio.StreamWriter)

_VMSTAT = Path("/proc/vmstat")
_LAST_LINES = 20
_LINE_LIMIT_BYTES = 1 << 20
_SHOWN_CHARACTERS = 200


class EngineGarbled(Exception):
    """The engine wrote something that is no event."""

    def __init__(self, line: object) -> None:
        super().__init__(f"the engine sent what is no event: {str(line)[:_SHOWN_CHARACTERS]}")


@dataclass(frozen=True)
class EngineExit:
    """How an engine ended: its exit status (negative: killed by that signal) and last words.
    `memory_kills` is how often the kernel killed for want of memory on this host meanwhile."""

    status: int
    last_lines: tuple[str, ...]
    memory_kills: int = 0

    @property
    def signal_name(self) -> str | None:
        return signal.Signals(-self.status).name if self.status < 0 else None


class EngineProcess:
    """A running engine, in a process group of its own that ends with it.

    It is exec'd, never forked: a fork after torch has run hangs. Should this process die, the
    kernel kills the engine.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._earlier_memory_kills = memory_kills(_VMSTAT)
        self._stderr = asyncio.create_task(self._read_stderr())

    @classmethod
    async def start(
        cls, job_file: Path, program: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Self:
        """`environment` is added to this process's."""
        return await cls._started((*program, str(job_file)), DEVNULL, environment or {})

    @classmethod
    async def warm(cls, program: Sequence[str], threads: int) -> Self:
        """One that imports what it needs, and then waits to be given a job of so many threads."""
        return await cls._started((*program, "--warm", str(threads)), PIPE, {})

    @classmethod
    async def _started(
        cls, arguments: Sequence[str], stdin: int, environment: Mapping[str, str]
    ) -> Self:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: _GroupLeader(_LINE_LIMIT_BYTES, loop),
            *arguments,
            stdin=stdin,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        return cls(Process(transport, protocol, loop))

    async def give(self, job_file: Path, environment: Mapping[str, str]) -> None:
        """To one that is warm, or about to be. Raises ConnectionError if it has ended."""
        stdin = _required(self._process.stdin)
        if self._process.returncode is not None:
            raise ConnectionResetError("the engine has ended")
        told = {"job_file": str(job_file), "environment": dict(environment)}
        self._earlier_memory_kills = memory_kills(_VMSTAT)
        stdin.write(json.dumps(told).encode() + b"\n")
        await stdin.drain()
        stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def events(self) -> AsyncIterator[EngineEvent]:
        """Every whole line until the pipe ends. A line cut by the engine's death is no event.

        Raises EngineGarbled.
        """
        stdout = _required(self._process.stdout)
        while True:
            try:
                line = await stdout.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError as overrun:
                raise EngineGarbled(await stdout.readexactly(overrun.consumed)) from overrun
            yield _event(line)

    async def wait(self) -> EngineExit:
        """Returns when the process has ended and its last words are read."""
        status = await self._process.wait()
        await self._stderr
        kills = memory_kills(_VMSTAT) - self._earlier_memory_kills
        return EngineExit(status, tuple(self._last_lines), kills)

    def request_stop(self) -> None:
        """Asks it to finish its step, write a checkpoint and leave."""
        self._signal(signal.SIGTERM)

    def ask_where(self) -> None:
        """Has its last words say where each thread stands, if it still can."""
        self._signal(signal.SIGUSR2)

    def kill(self) -> None:
        """Nothing more comes over its pipe than is in it already."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:  # else its id may be somebody else's by now
            _signal_group(self.pid, number)

    async def _read_stderr(self) -> None:
        stderr = _required(self._process.stderr)
        while line := await _bounded_line(stderr):
            self._last_lines.append(line.decode(errors="replace").rstrip())


class _GroupLeader(SubprocessStreamProtocol):
    """Takes its group with it: children that it leaves behind would hold its pipes open, and its
    end would never be seen."""

    _pid: int

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._pid = cast(asyncio.SubprocessTransport, transport).get_pid()
        super().connection_made(transport)

    def process_exited(self) -> None:
        _signal_group(self._pid, signal.SIGKILL)
        super().process_exited()


def memory_kills(vmstat: Path) -> int:
    """How often the kernel has killed for want of memory, by its own count: of this host or of one
    of its control groups. 0 where it does not count."""
    try:
        counts = dict(line.split() for line in vmstat.read_text().splitlines())
    except OSError:
        return 0
    return int(counts.get("oom_kill", 0))


def _signal_group(leader: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # nobody of the group is left
        os.killpg(leader, number)


def _required(stream: S | None) -> S:
    if stream is None:
        raise RuntimeError("the engine was started without a pipe")
    return stream


def _event(line: bytes) -> EngineEvent:
    try:
        event: Any = json.loads(line)
    except ValueError as error:
        raise EngineGarbled(line) from error
    if not isinstance(event, dict):
        raise EngineGarbled(line)
    return cast(EngineEvent, event)


async def _bounded_line(stream: asyncio.StreamReader) -> bytes:
    """The next line; one longer than the limit is cut there, and goes on as the next."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as end:
        return end.partial
    except asyncio.LimitOverrunError as overrun:
        return await stream.readexactly(overrun.consumed)
