"""The hint that work waits, between replicas."""

import asyncio

import structlog
from structlog.typing import FilteringBoundLogger

from services.common.bus import Bus, retry_delays
from services.common.faults import Unavailable
from services.trainer.control.domain.signals import Signals

WORK_WAITS = "hint.jobs.waiting"

log: FilteringBoundLogger = structlog.get_logger(__name__)


class WorkHints:
    """Tells other replicas that work waits, and hears it from them."""

    def __init__(self, bus: Bus, signals: Signals) -> None:
        self._bus = bus
        self._signals = signals

    async def send(self) -> None:
        """Runs until it is cancelled."""
        queued = self._signals.queued_here.listen()
        while True:
            await queued.wait()
            queued = self._signals.queued_here.listen()
            await self._bus.hint(WORK_WAITS)

    async def listen(self) -> None:
        """Runs until it is cancelled; a hint missed in an outage costs a poll interval."""
        delays = retry_delays()
        while True:
            try:
                async with self._bus.hints(WORK_WAITS) as hints:
                    delays = retry_delays()
                    async for _ in hints:
                        self._signals.work_waits.ring()
            except Unavailable as fault:
                log.warning("work_hints.paused", reason=fault.reason)
            await asyncio.sleep(next(delays))
