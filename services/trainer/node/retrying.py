"""Calls again for as long as nobody answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from services.common.faults import Unavailable

T = TypeVar("T")

_FIRST_PAUSE_S = 0.2
_LAST_PAUSE_S = 5.0
_log = structlog.get_logger()


def never(waited_s: float) -> bool:
    """Does not give up, however long it has been."""
    return False


async def repeated(
    call: Callable[[], Awaitable[T]],
    event: str,
    gives_up: Callable[[float], bool] = never,
    **fields: object,
) -> T:
    """What `call` answers once it does not raise Unavailable; each time it does is logged as
    `event`. Raises the last Unavailable when `gives_up`, asked with the seconds since the first
    call, says so."""
    time_s = asyncio.get_running_loop().time
    began_s, pause_s = time_s(), _FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except Unavailable as error:
            if gives_up(time_s() - began_s):
                raise
            _log.warning(event, reason=error.reason, error=error.message, **fields)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LAST_PAUSE_S)
