"""Work in the background that is done again and again."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from structlog.typing import FilteringBoundLogger

from services.common.faults import Aborted, Unavailable

log: FilteringBoundLogger = structlog.get_logger(__name__)


async def repeat(work: Callable[[], Awaitable[None]], every_s: float, paused: str) -> None:
    """Until it is cancelled, through outages, of which the log event `paused` tells."""
    while True:
        try:
            await work()
        except (Unavailable, Aborted) as fault:
            log.warning(paused, reason=fault.reason)
        await asyncio.sleep(every_s)
