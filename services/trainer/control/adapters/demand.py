"""How many jobs need a node, told to whoever starts nodes on demand."""

import asyncio
from typing import Any

import structlog
from sqlmodel import col, func, select
from structlog.typing import FilteringBoundLogger

from services.common.bus import Bus
from services.common.faults import Unavailable
from services.common.store import Session, Store
from services.trainer.control.adapters.tables import JobRow, in_states
from services.trainer.control.domain.states import ACTIVE

LAG = "ANNEAL_NODES"
"""The stream, and its consumer, whose lag is the number of jobs that wait or run."""

MOST = 1000
"""More nodes than this nobody starts; and a count of a long queue stays cheap."""

_POLL_S = 5.0

log: FilteringBoundLogger = structlog.get_logger(__name__)


class Demand:
    """Jobs that run count as well as those that wait: a node that trains is needed."""

    def __init__(self, store: Store[Any], bus: Bus, poll_s: float = _POLL_S) -> None:
        self._store = store.sharing(_session, announces=False)
        self._bus = bus
        self._poll_s = poll_s

    async def show(self) -> None:
        """Runs until it is cancelled; through outages the last count stays."""
        while True:
            try:
                await self._bus.show_lag(LAG, await self._count())
            except Unavailable as fault:
                log.warning("demand.unknown", reason=fault.reason)
            await asyncio.sleep(self._poll_s)

    async def _count(self) -> int:
        needing = select(col(JobRow.name)).where(in_states(ACTIVE)).limit(MOST)
        async with self._store.reading() as session:
            found = await session.exec(select(func.count()).select_from(needing.subquery()))
            return found.one()


def _session(session: Session) -> Session:
    return session
