"""Removes the blobs of checkpoints that nobody needs any more, once that is written down."""

import structlog
from structlog.typing import FilteringBoundLogger

from services.common.faults import InvalidArgument
from services.trainer.control.domain.ports import CheckpointBlobs, Store
from services.trainer.control.domain.recurring import repeat

_AT_ONCE = 100

log: FilteringBoundLogger = structlog.get_logger(__name__)


class Releases:
    """An owner is forgotten when its blobs are gone: whatever comes between is done again, by this
    replica or another. Those of a job that has ended are removed twice, a day apart: a node that
    has lost its lease and can not hear of it goes on up to its next checkpoint."""

    def __init__(self, store: Store, blobs: CheckpointBlobs, every_s: float = 5.0) -> None:
        self._store = store
        self._blobs = blobs
        self._every_s = every_s

    async def run(self) -> None:
        """Runs until it is cancelled, through outages of the database and the blob store."""
        await repeat(self.remove_all, self._every_s, "releases.paused")

    async def remove_all(self) -> None:
        """Raises Unavailable and Aborted."""
        while owners := await self._released():
            for owner in owners:
                await self._remove(owner)

    async def _remove(self, owner: str) -> None:
        try:
            await self._blobs.remove_owned(owner)
        except InvalidArgument as fault:  # no store has anything under such a name
            log.error("releases.owner_unknown", owner=owner, reason=fault.reason)
        async with self._store.writing() as unit:
            await unit.checkpoints.forget(owner)

    async def _released(self) -> list[str]:
        async with self._store.reading() as unit:
            return list(await unit.checkpoints.released(await unit.now(), _AT_ONCE))
