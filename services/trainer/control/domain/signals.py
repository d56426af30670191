"""Wake-ups within this process: they save waiting, and nothing depends on their arrival."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.states import State


class Bell:
    """Wakes everybody who listens.

    Listen first, then read what you wait for, then wait: a ring in between is not lost. `rings`
    counts them: whoever reads at the same count reads the same news.
    """

    def __init__(self) -> None:
        self.rings = 0
        self._next = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """Set by the next ring."""
        return self._next

    def ring(self) -> None:
        rung, self._next = self._next, asyncio.Event()
        self.rings += 1
        rung.set()


async def wait(event: asyncio.Event, timeout_s: float) -> None:
    """Until the event is set, or the time is over."""
    try:
        async with asyncio.timeout(timeout_s):  # wait_for of Python 3.11 may swallow a cancellation
            await event.wait()
    except TimeoutError:
        return


class Signals:
    """Who waits for what in this process."""

    def __init__(self) -> None:
        self.work_waits = Bell()
        self.queued_here = Bell()
        """Rung for jobs queued by this process only: what other replicas are to be told."""
        self._followed: dict[TuningJobName, tuple[Bell, int]] = {}

    def job_committed(self, job: TuningJob) -> None:
        self.changed(job.name)
        if job.state is State.QUEUED:
            self.work_waits.ring()
            self.queued_here.ring()

    def changed(self, name: TuningJobName) -> None:
        if followed := self._followed.get(name):
            followed[0].ring()

    def followed(self) -> tuple[TuningJobName, ...]:
        """The jobs that somebody follows right now."""
        return tuple(self._followed)

    @contextmanager
    def following(self, name: TuningJobName) -> Generator[Bell]:
        """A bell that rings whenever the job's history grew."""
        bell, followers = self._followed.get(name, (Bell(), 0))
        self._followed[name] = (bell, followers + 1)
        try:
            yield bell
        finally:
            self._unfollow(name)

    def _unfollow(self, name: TuningJobName) -> None:
        bell, followers = self._followed[name]
        if followers == 1:
            del self._followed[name]
        else:
            self._followed[name] = (bell, followers - 1)
