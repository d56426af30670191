"""Starting engines: at once, where one waits that has all imports behind it."""

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from services.trainer.node.engine import EngineProcess

StartEngine = Callable[[Path], Awaitable[EngineProcess]]
"""Starts one on a job file."""

_LAUNCH = (sys.executable, "-P", "-m", "services.trainer.engine.launch")
_LET_TRAIN_S = 10.0
"""After an engine was taken: its own first steps come before the next one's imports."""
_log = structlog.get_logger()


def cold(program: Sequence[str], environment: Mapping[str, str] | None = None) -> StartEngine:
    """By starting the program."""

    async def start(job_file: Path) -> EngineProcess:
        return await EngineProcess.start(job_file, program, environment)

    return start


def launched(processes: int, environment: Mapping[str, str]) -> StartEngine:
    """By starting so many together, each on a GPU of its own."""
    return cold((*_LAUNCH, str(processes)), environment)


class WarmEngines:
    """Keeps engines of `program` ready, as many as `count`, for jobs of so many threads.

    A warm engine holds torch and no job; it trains one, and ends. Where none is ready, or the one
    that was has died, a job gets one that starts from the beginning.
    """

    def __init__(self, program: Sequence[str], threads: int, count: int) -> None:
        self._program = program
        self._threads = threads
        self._count = count
        self._ready: deque[EngineProcess] = deque()
        self._replacing: set[asyncio.Task[None]] = set()
        self._filling = asyncio.Lock()

    async def fill(self) -> None:
        """Has all be ready, or about to be."""
        async with self._filling:
            while len(self._ready) < self._count:
                self._ready.append(await EngineProcess.warm(self._program, self._threads))

    def starter(self, environment: Mapping[str, str]) -> StartEngine:
        async def start(job_file: Path) -> EngineProcess:
            engine = await self._given(job_file, environment)
            return engine or await EngineProcess.start(job_file, self._program, environment)

        return start

    async def close(self) -> None:
        for task in self._replacing:
            task.cancel()
        while self._ready:
            engine = self._ready.popleft()
            engine.kill()
            await engine.wait()

    async def _given(self, job_file: Path, environment: Mapping[str, str]) -> EngineProcess | None:
        while self._ready:
            engine = self._ready.popleft()
            self._replace_soon()
            try:
                await engine.give(job_file, environment)
            except ConnectionError:
                end = await engine.wait()
                _log.warning("node.warm_engine_lost", status=end.status, lines=end.last_lines)
                continue
            return engine
        return None

    def _replace_soon(self) -> None:
        async def replace() -> None:
            await asyncio.sleep(_LET_TRAIN_S)
            with suppress(OSError):  # no process to be had now: the next job starts a cold one
                await self.fill()

        task = asyncio.create_task(replace())
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)
