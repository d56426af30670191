"""Jobs that a replica of an earlier version queues during an upgrade: it knows no lines, and no
claim would find them."""

import asyncio

import structlog
from structlog.typing import FilteringBoundLogger

from services.common.faults import Aborted, Unavailable
from services.trainer.control.domain.ports import Store

_AT_ONCE = 100

log: FilteringBoundLogger = structlog.get_logger(__name__)


class Latecomers:
    """Puts them into their lines."""

    def __init__(self, store: Store, every_s: float = 10.0) -> None:
        self._store = store
        self._every_s = every_s

    async def run(self) -> None:
        """Runs until it is cancelled, through outages of the database."""
        while True:
            try:
                await self.line_up()
            except (Unavailable, Aborted) as fault:
                log.warning("latecomers.paused", reason=fault.reason)
            await asyncio.sleep(self._every_s)

    async def line_up(self) -> None:
        """Raises Unavailable and Aborted."""
        async with self._store.reading() as unit:
            names = await unit.queue.unlined(_AT_ONCE)
        for name in names:
            async with self._store.writing() as unit:
                job = await unit.jobs.hold(name)
                if job is not None:
                    await unit.queue.line_up(job)
                    log.info("job.lined_up", job=str(name))
