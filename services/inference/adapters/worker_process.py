"""A worker as the router sees it: a child process that answers numbered requests."""

import asyncio
import itertools
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import structlog

from services.inference.domain.errors import QueueFull, WorkerStopped
from services.inference.worker import protocol

Reply = (
    protocol.TextPiece
    | protocol.End
    | protocol.Scored
    | protocol.TooLong
    | protocol.Refused
    | protocol.Unusable
)

_LAST_LINES = 10
_LINE_LIMIT_BYTES = 1 << 22
_WAITING_LIMIT = 64
_FINAL = (protocol.End, protocol.Scored, protocol.TooLong, protocol.Refused, protocol.Unusable)
_log = structlog.get_logger()


class WorkerProcess:
    """A running worker with its base model loaded. Ends with its parent."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Queue[Reply | None]] = {}
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._ready = asyncio.Event()
        self._silent = False
        self._reading = asyncio.gather(self._read_answers(), self._read_stderr())

    @classmethod
    async def start(cls, base_model_dir: Path, threads: int) -> Self:
        """Returns when the model is loaded. Raises WorkerStopped if that fails; then, and when it
        is cancelled, no process is left."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.inference.worker",
            str(base_model_dir),
            str(threads),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LINE_LIMIT_BYTES,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        worker = cls(process)
        try:
            await worker._ready.wait()
        except asyncio.CancelledError:
            await worker.stop()
            raise
        if not worker.alive:
            await worker.stop()  # the cause may still be on its way through stderr
            raise worker.stopped()
        _log.info("worker.ready", pid=process.pid)
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None and not self._silent

    def stopped(self) -> WorkerStopped:
        """Why it is no longer alive, in words."""
        code = self._process.returncode
        if code is not None and code < 0:
            return WorkerStopped(f"it was killed by signal {-code}")
        return WorkerStopped(self._last_lines[-1] if self._last_lines else "it ended")

    @asynccontextmanager
    async def ask(
        self, request: Callable[[int], protocol.Request]
    ) -> AsyncGenerator[AsyncIterator[Reply]]:
        """Sends `request(number)` and gives its replies. Leaving early cancels it.

        Raises QueueFull; the iterator raises WorkerStopped when the process dies.
        """
        if len(self._replies) >= _WAITING_LIMIT:
            raise QueueFull(_WAITING_LIMIT)
        number = next(self._numbers)
        replies = self._replies[number] = asyncio.Queue[Reply | None]()
        finished = False

        async def until_final() -> AsyncIterator[Reply]:
            nonlocal finished
            while not finished:
                reply = await replies.get()
                if reply is None:
                    raise self.stopped()
                finished = isinstance(reply, _FINAL)
                yield reply

        try:
            await self._send(request(number))
            yield until_final()
        finally:
            del self._replies[number]
            if not finished:
                self._cancel(number)

    async def stop(self) -> None:
        """Ends the process at once; what it was asked fails with WorkerStopped."""
        self._kill()
        await self._process.wait()
        await self._reading

    def _kill(self) -> None:
        if self._process.returncode is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                _log.info("worker.ended_by_itself", pid=self._process.pid)

    def _cancel(self, number: int) -> None:
        """Waits for nothing and raises nothing: its caller is on the way out for another reason,
        and a worker that is gone has nothing to cancel."""
        if self.alive and self._process.stdin is not None:
            self._process.stdin.write(protocol.Cancel(id=number).to_line())

    async def _send(self, request: protocol.Request) -> None:
        if not self.alive or self._process.stdin is None:
            raise self.stopped()
        try:
            self._process.stdin.write(request.to_line())
            await self._process.stdin.drain()
        except ConnectionError as error:
            raise self.stopped() from error

    async def _read_answers(self) -> None:
        try:
            async for line in _lines(self._process.stdout):
                answer = protocol.read_answer(line)
                if isinstance(answer, protocol.Ready):
                    self._ready.set()
                elif answer.id in self._replies:
                    self._replies[answer.id].put_nowait(answer)
        except ValueError as error:
            _log.error("worker.unreadable", pid=self._process.pid, error=str(error))
            self._kill()
        finally:
            self._silent = True
            await self._process.wait()
            self._ready.set()
            for replies in self._replies.values():
                replies.put_nowait(None)

    async def _read_stderr(self) -> None:
        async for line in _lines(self._process.stderr):
            self._last_lines.append(line.decode(errors="replace").strip())


async def _lines(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    if stream is None:
        raise RuntimeError("the worker was started without pipes")
    async for line in stream:
        yield line
