"""Jobs that a replica of an earlier version queues during an upgrade: it knows no lines, and no
claim would find them."""

import structlog
from structlog.typing import FilteringBoundLogger

from services.trainer.control.domain.ports import Store
from services.trainer.control.domain.recurring import repeat

_AT_ONCE = 100

log: FilteringBoundLogger = structlog.get_logger(__name__)


class Latecomers:
    """Puts them into their lines."""

    def __init__(self, store: Store, every_s: float = 10.0) -> None:
        self._store = store
        self._every_s = every_s

    async def run(self) -> None:
        """Runs until it is cancelled, through outages of the database."""
        await repeat(self.line_up, self._every_s, "latecomers.paused")

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
