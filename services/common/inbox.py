"""Effects that happen once although messages are delivered at least once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from services.common.bus import Bus, Delivery, Message, retry_delays
from services.common.columns import DatabaseNow
from services.common.failpoints import failpoint
from services.common.faults import Unavailable
from services.common.store import Session, Store, insert_new
from services.common.tables import InboxRow

T = TypeVar("T")

MAX_FAILURES = 20
_FIRST_RETRY_S = 0.5
_ACK_WAIT_S = 30.0
_MAX_RETRY_S = 30.0

_log = structlog.get_logger()


class Inbox:
    """The messages that one transaction takes note of."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def first_time(self, consumer: str, message_id: str) -> bool:
        """True once per consumer and message, if the transaction commits."""
        row = {"consumer": consumer, "message_id": message_id, "received_at": DatabaseNow()}
        return await insert_new(self._session, InboxRow, row)


@dataclass(frozen=True)
class _Tables(Generic[T]):
    inbox: Inbox
    own: T


class Consumer(Generic[T]):
    """Gives each message of `subjects` to `handle`, whose writes are its effect.

    The effect and the note that it happened commit together, then the message is acknowledged.
    If `handle` raises, nothing is written and the message comes again, later each time; after 20
    failures in this process it is given up and logged as an error. An outage (any Unavailable)
    is nobody's failure: the message comes again until it is over. `delays` are the seconds
    between tries in an outage. What this process has in hand when it is killed comes again after
    `ack_wait_s`, which is more than `handle` takes.
    """

    def __init__(
        self,
        bus: Bus,
        store: Store[T],
        durable: str,
        subjects: Sequence[str],
        handle: Callable[[T, Message], Awaitable[None]],
        *,
        first_retry_s: float = _FIRST_RETRY_S,
        ack_wait_s: float = _ACK_WAIT_S,
        delays: Callable[[], Iterator[float]] = retry_delays,
    ) -> None:
        build = store.build
        self._bus = bus
        self._store = store.sharing(lambda session: _Tables(Inbox(session), build(session)))
        self._durable = durable
        self._subjects = tuple(subjects)
        self._handle = handle
        self._first_retry_s = first_retry_s
        self._ack_wait_s = ack_wait_s
        self._new_delays = delays
        self._failures: dict[str, int] = {}

    async def run(self) -> None:
        """Runs until it is cancelled."""
        delays = self._new_delays()
        while True:
            try:
                async with self._subscribed() as deliveries:
                    async for delivery in deliveries:
                        await self._receive(delivery)
                        delays = self._new_delays()
            except Unavailable as fault:
                _log.warning("consumer.paused", durable=self._durable, reason=fault.reason)
            await asyncio.sleep(next(delays))

    def _subscribed(self) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        return self._bus.subscribe(self._durable, self._subjects, ack_wait_s=self._ack_wait_s)

    async def _receive(self, delivery: Delivery) -> None:
        message = delivery.message
        failpoint("inbox.received")
        try:
            await self._take_effect(message)
        except Unavailable:
            await delivery.nak(self._first_retry_s)
            raise
        except Exception as error:  # a handler may fail in any way; none may stop the consumer
            await self._failed(delivery, error)
        else:
            self._failures.pop(message.message_id, None)
            failpoint("inbox.committed")
            await delivery.ack()
            failpoint("inbox.acknowledged")

    async def _take_effect(self, message: Message) -> None:
        async with self._store.writing() as tables:
            if await tables.inbox.first_time(self._durable, message.message_id):
                await self._handle(tables.own, message)
                failpoint("inbox.handled")

    async def _failed(self, delivery: Delivery, error: Exception) -> None:
        message_id = delivery.message.message_id
        failures = self._failures.pop(message_id, 0) + 1
        log = _log.bind(
            durable=self._durable,
            subject=delivery.message.subject,
            message_id=message_id,
            failures=failures,
        )
        if failures >= MAX_FAILURES:
            log.error("consumer.gave_up", exc_info=error)
            await delivery.terminate()
            return
        self._failures[message_id] = failures
        log.warning("consumer.failed", exc_info=error)
        await delivery.nak(min(self._first_retry_s * 2 ** (failures - 1), _MAX_RETRY_S))
