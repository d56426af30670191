"""The events of nodes, from the bus into the histories."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import structlog
from structlog.typing import FilteringBoundLogger

from services.common.bus import Bus, Delivery, retry_delays
from services.common.faults import Aborted, Unavailable
from services.trainer.control import from_proto
from services.trainer.control.domain.ports import Store
from services.trainer.control.domain.progress import Telemetry
from services.trainer.control.domain.telemetry import hear

DURABLE = "trainer-control"
SUBJECTS = ("anneal.jobs.*.*.events",)

_BATCH = 64
_RETRY_S = 1.0
_MAX_DELIVERIES = 20

log: FilteringBoundLogger = structlog.get_logger(__name__)


class TelemetryConsumer:
    """Writes what has arrived in one transaction: the busier, the more at once.

    It needs no inbox: a history has each number of an attempt once. Through an outage of the
    database it holds on to its batch, so that the order stays.
    """

    def __init__(self, bus: Bus, store: Store) -> None:
        self._bus = bus
        self._store = store

    async def run(self) -> None:
        """Runs until it is cancelled."""
        delays = retry_delays()
        while True:
            try:
                async with (
                    self._bus.subscribe(DURABLE, SUBJECTS) as deliveries,
                    asyncio.TaskGroup() as tasks,
                ):
                    arrived = asyncio.Queue[Delivery](_BATCH)
                    tasks.create_task(_collect(deliveries, arrived))
                    while True:
                        await self._receive([await arrived.get(), *_at_hand(arrived)])
                        delays = retry_delays()
            except* Unavailable as faults:
                log.warning("telemetry.paused", reasons=[str(fault) for fault in faults.exceptions])
            await asyncio.sleep(next(delays))

    async def _receive(self, batch: Sequence[Delivery]) -> None:
        try:
            await self._write([event for event in map(_read, batch) if event is not None])
        except Exception as error:  # whatever one event does, it must not stop all others
            await self._receive_each(batch, error)
        else:
            for delivery in batch:
                await delivery.ack()

    async def _receive_each(self, batch: Sequence[Delivery], error: Exception) -> None:
        if len(batch) == 1:
            await _give_back(batch[0], error)
            return
        for delivery in batch:
            await self._receive([delivery])

    async def _write(self, events: Sequence[Telemetry]) -> None:
        for delay_s in retry_delays():
            try:
                async with self._store.writing() as unit:
                    await hear(unit, events)
                return
            except (Unavailable, Aborted) as fault:
                log.warning("telemetry.waiting", reason=fault.reason)
            await asyncio.sleep(delay_s)


def _read(delivery: Delivery) -> Telemetry | None:
    """None: it is no event of a node, and never will be one."""
    message = delivery.message
    try:
        return from_proto.telemetry(message.subject, message.payload)
    except from_proto.Unreadable as error:
        log.error("telemetry.unreadable", subject=message.subject, reason=str(error))
        return None


async def _give_back(delivery: Delivery, error: Exception) -> None:
    message = delivery.message
    log.error("telemetry.failed", message_id=message.message_id, exc_info=error)
    if message.deliveries >= _MAX_DELIVERIES:
        await delivery.terminate()
    else:
        await delivery.nak(_RETRY_S)


async def _collect(deliveries: AsyncIterator[Delivery], arrived: asyncio.Queue[Delivery]) -> None:
    """Goes on fetching while a batch is written."""
    async for delivery in deliveries:
        await arrived.put(delivery)


def _at_hand(arrived: asyncio.Queue[Delivery]) -> Iterator[Delivery]:
    """What can be had without waiting."""
    while not arrived.empty():
        yield arrived.get_nowait()
