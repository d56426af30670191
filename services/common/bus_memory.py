"""The bus within one process: for tests, and the contract in its shortest form."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

from services.common.bus import (
    MAX_PAYLOAD_BYTES,
    Delivery,
    Message,
    matches,
    require_subject,
)

_NEVER = float("inf")
_HINTS_WAITING = 1024


@dataclass
class _Progress:
    """What one durable consumer knows of the stream."""

    subjects: tuple[str, ...] = ()
    ack_wait_s: float = 30.0
    due_s: dict[int, float] = field(default_factory=dict[int, float])
    """When each message that was delivered is due again, by index; answered ones never are."""
    deliveries: dict[int, int] = field(default_factory=dict[int, int])


@dataclass(frozen=True)
class _MemoryDelivery:
    message: Message
    _bus: "MemoryBus"
    _progress: _Progress
    _index: int

    async def ack(self) -> None:
        self._progress.due_s[self._index] = _NEVER

    async def nak(self, delay_s: float) -> None:
        self._progress.due_s[self._index] = asyncio.get_running_loop().time() + delay_s
        self._bus.changed.set()

    async def terminate(self) -> None:
        await self.ack()


class MemoryBus:
    """Keeps every message for as long as it lives."""

    def __init__(self) -> None:
        self._stream: list[Message] = []
        self._message_ids: set[str] = set()
        self._durables: dict[str, _Progress] = {}
        self._listeners: list[tuple[str, asyncio.Queue[bytes]]] = []
        self.lags: dict[str, int] = {}
        self.changed = asyncio.Event()

    async def publish(self, subject: str, payload: bytes, message_id: str) -> None:
        require_subject(subject)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"{message_id} has {len(payload)} bytes")
        if message_id in self._message_ids:
            return
        self._message_ids.add(message_id)
        self._stream.append(Message(subject, payload, message_id))
        self.changed.set()

    async def hint(self, subject: str, payload: bytes = b"") -> None:
        require_subject(subject)
        for pattern, queue in self._listeners:
            if matches(pattern, subject) and not queue.full():
                queue.put_nowait(payload)

    @asynccontextmanager
    async def subscribe(
        self, durable: str, subjects: Sequence[str], *, ack_wait_s: float = 30.0
    ) -> AsyncGenerator[AsyncIterator[Delivery]]:
        progress = self._durables.setdefault(durable, _Progress())
        progress.subjects, progress.ack_wait_s = tuple(subjects), ack_wait_s
        async with aclosing(self._deliveries(progress)) as deliveries:
            yield deliveries

    @asynccontextmanager
    async def hints(self, subject: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        listener = (subject, asyncio.Queue[bytes](_HINTS_WAITING))
        self._listeners.append(listener)
        try:
            yield _payloads(listener[1])
        finally:
            self._listeners.remove(listener)

    async def show_lag(self, name: str, count: int) -> None:
        self.lags[name] = count

    async def ping(self) -> None:
        """It is always there."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _deliveries(self, progress: _Progress) -> AsyncGenerator[Delivery]:
        while True:
            self.changed.clear()
            now_s = asyncio.get_running_loop().time()
            index = self._first_due(progress, now_s)
            if index is None:
                await self._until_due(progress, now_s)
                continue
            progress.due_s[index] = now_s + progress.ack_wait_s
            progress.deliveries[index] = progress.deliveries.get(index, 0) + 1
            yield self._delivery(progress, index)

    def _delivery(self, progress: _Progress, index: int) -> Delivery:
        stored = self._stream[index]
        message = Message(
            stored.subject, stored.payload, stored.message_id, progress.deliveries[index]
        )
        return _MemoryDelivery(message, self, progress, index)

    def _first_due(self, progress: _Progress, now_s: float) -> int | None:
        return next(
            (
                index
                for index, message in enumerate(self._stream)
                if progress.due_s.get(index, 0.0) <= now_s
                and any(matches(pattern, message.subject) for pattern in progress.subjects)
            ),
            None,
        )

    async def _until_due(self, progress: _Progress, now_s: float) -> None:
        """Until something is published or answered, or the next delivery is due again."""
        waits_s = [due_s - now_s for due_s in progress.due_s.values() if now_s < due_s < _NEVER]
        with suppress(TimeoutError):
            async with asyncio.timeout(min(waits_s, default=None)):
                await self.changed.wait()


async def _payloads(queue: asyncio.Queue[bytes]) -> AsyncGenerator[bytes]:
    while True:
        yield await queue.get()
