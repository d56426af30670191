"""The events of nodes, from the bus into the histories."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence, Set
from operator import attrgetter

import structlog
from structlog.typing import FilteringBoundLogger

from services.common.bus import Bus, Delivery, retry_delays
from services.common.faults import Aborted, Unavailable
from services.trainer.control import from_proto
from services.trainer.control.domain.ports import Store
from services.trainer.control.domain.progress import Telemetry
from services.trainer.control.domain.telemetry import early, hear

DURABLE = "trainer-control"
SUBJECTS = ("anneal.jobs.*.*.events",)

_BATCH = 64
_RETRY_S = 1.0
_MAX_DELIVERIES = 20
_ACK_WAIT_S = 3.0
"""When the bus delivers again what a killed process had in hand. LeasePolicy.events_grace_s must
be longer: the end of a job waits for these events."""

_EARLY_RETRY_S = 0.5
_EARLY_DELIVERIES = 12
"""After so many deliveries, 6 s, an event's predecessors are taken for lost."""

log: FilteringBoundLogger = structlog.get_logger(__name__)


class TelemetryConsumer:
    """Writes what has arrived in one transaction: the busier, the more at once.

    It needs no inbox: a history has each number of an attempt once. Through an outage of the
    database it holds on to its batch, so that the order stays; what overtook its predecessors on
    the bus waits for them.
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
                    self._bus.subscribe(DURABLE, SUBJECTS, ack_wait_s=_ACK_WAIT_S) as deliveries,
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
        told = [_read(delivery) for delivery in batch]
        overdue = {event for event, one in zip(told, batch, strict=True) if _is_overdue(one)}
        try:
            waiting = await self._write({event for event in told if event is not None}, overdue)
        except Exception as error:  # whatever one event does, it must not stop all others
            await self._receive_each(batch, error)
            return
        for event, delivery in zip(told, batch, strict=True):
            if event in waiting:
                await delivery.nak(_EARLY_RETRY_S)
            else:
                await delivery.ack()

    async def _receive_each(self, batch: Sequence[Delivery], error: Exception) -> None:
        if len(batch) == 1:
            await _give_back(batch[0], error)
            return
        for delivery in batch:
            await self._receive([delivery])

    async def _write(self, told: Set[Telemetry], overdue: Set[Telemetry | None]) -> Set[Telemetry]:
        """Returns those that must wait for their predecessors, and are not overdue."""
        delays = retry_delays()
        while True:
            try:
                async with self._store.writing() as unit:
                    waiting = await early(unit, told) - overdue
                    await hear(unit, sorted(told - waiting, key=attrgetter("place")))
                return waiting
            except (Unavailable, Aborted) as fault:
                log.warning("telemetry.waiting", reason=fault.reason)
            await asyncio.sleep(next(delays))


def _is_overdue(delivery: Delivery) -> bool:
    return delivery.message.deliveries >= _EARLY_DELIVERIES


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
