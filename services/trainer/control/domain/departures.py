"""Nodes that have left: hosts come and go, and each may have a name of its own."""

from datetime import timedelta

import structlog
from structlog.typing import FilteringBoundLogger

from services.trainer.control.domain.ports import Store
from services.trainer.control.domain.recurring import repeat

FORGOTTEN_AFTER = timedelta(days=7)

log: FilteringBoundLogger = structlog.get_logger(__name__)


class Departures:
    """Forgets them, and with them whether they were cordoned."""

    def __init__(self, store: Store, every_s: float = 3600.0) -> None:
        self._store = store
        self._every_s = every_s

    async def run(self) -> None:
        """Runs until it is cancelled, through outages of the database."""
        await repeat(self.forget, self._every_s, "departures.paused")

    async def forget(self) -> None:
        """Raises Unavailable and Aborted."""
        async with self._store.writing() as unit:
            gone = await unit.nodes.forget(await unit.now() - FORGOTTEN_AFTER)
        for node in gone:
            log.info("node.forgotten", node=node)
