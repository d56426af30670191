"""What uploads have left in a blob store that ended with their process."""

import asyncio
from datetime import timedelta

import structlog

from services.common.blobs import Blobs
from services.common.clock import Clock, SystemClock
from services.common.faults import Unavailable

KEPT = timedelta(days=1)
"""An upload that goes on writes far more often."""

_log = structlog.get_logger()


async def removing_leftovers(
    blobs: Blobs, clock: Clock | None = None, *, every_s: float = 3600.0
) -> None:
    """Removes them until it is cancelled, through outages of the store."""
    clock = clock or SystemClock()
    while True:
        try:
            await blobs.remove_leftovers(clock.now() - KEPT)
        except Unavailable as fault:
            _log.warning("leftovers.skipped", reason=fault.reason)
        await asyncio.sleep(every_s)
