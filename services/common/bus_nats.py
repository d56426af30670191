"""The bus on NATS JetStream.

JetStream acknowledges before it syncs to disk unless its server runs with `sync_interval: always`;
it does not fence a stale consumer. So it carries news and never state.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, Header, StorageType, StreamConfig, StreamState

from services.common.bus import (
    MAX_PAYLOAD_BYTES,
    BusUnavailable,
    Delivery,
    Message,
    require_subject,
    retry_delays,
)

T = TypeVar("T")

_STREAM_AGE = timedelta(days=7)
_DUPLICATE_WINDOW = timedelta(minutes=10)
_ANSWER_TIMEOUT_S = 2.0
_CANCEL_TIMEOUT_S = 0.2
_FETCH_TIMEOUT_S = 2.0  # a fetch that is in flight over a server's restart is lost: keep it short
_HINTS_WAITING = 1024
_MAX_ACK_PENDING = 256
_STREAM_DIFFERS = 10058

_CONNECTION: Mapping[str, Any] = {
    "max_reconnect_attempts": -1,  # the default gives up for good after two minutes
    "reconnect_time_wait": 0.25,
    "connect_timeout": 2,
    "flush_timeout": 2,  # the default waits for a reconnection, however long that takes
    "ping_interval": 5,  # with two unanswered: a half-open connection is noticed within 15 s
    "max_outstanding_pings": 2,
}

_log = structlog.get_logger()


@dataclass(frozen=True)
class _NatsDelivery:
    message: Message
    _raw: Msg

    async def ack(self) -> None:
        with _translated():
            await _answered(self._raw.ack())

    async def nak(self, delay_s: float) -> None:
        with _translated():
            await _answered(self._raw.nak(delay_s))

    async def terminate(self) -> None:
        with _translated():
            await _answered(self._raw.term())


class NatsBus:
    """Reconnects for ever; while the server is away, everything but hints raises BusUnavailable."""

    def __init__(
        self, url: str, *, name: str, stream: str, subjects: Sequence[str], replicas: int
    ) -> None:
        self._urls = [one.strip() for one in url.split(",")]
        self._name = name
        self._stream = StreamConfig(
            name=stream,
            subjects=list(subjects),
            max_age=_STREAM_AGE.total_seconds(),
            duplicate_window=_DUPLICATE_WINDOW.total_seconds(),
            num_replicas=replicas,
        )
        self._client = Client()
        self._closing = False
        self._opening = asyncio.ensure_future(self._open())

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str,
        stream: str = "ANNEAL",
        subjects: Sequence[str] = ("anneal.>",),
        replicas: int = 1,
        wait_s: float = 5.0,
    ) -> Self:
        """A bus that is connected, or that goes on trying in the background if the server does
        not answer within `wait_s`: a service starts without it and says that it is not ready.
        `url` may be several with commas between them: servers of one cluster, of which any will
        do, with one login (`nats://user:password@host:port`). `name` is what their operator sees.
        The stream is made if it is missing, on `replicas` servers; one that is there stays as it
        is."""
        bus = cls(url, name=name, stream=stream, subjects=subjects, replicas=replicas)
        done, _ = await asyncio.wait([bus._opening], timeout=wait_s)
        for opening in done:
            opening.result()
        return bus

    async def publish(self, subject: str, payload: bytes, message_id: str) -> None:
        require_subject(subject)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"{message_id} has {len(payload)} bytes")
        with _translated():
            await _answered(
                self._jetstream().publish(
                    subject,
                    payload,
                    stream=self._stream.name,
                    headers={Header.MSG_ID.value: message_id},
                )
            )

    async def hint(self, subject: str, payload: bytes = b"") -> None:
        with suppress(BusUnavailable), _translated():
            await _answered(self._connected().publish(require_subject(subject), payload))

    @asynccontextmanager
    async def subscribe(
        self, durable: str, subjects: Sequence[str], *, ack_wait_s: float = 30.0
    ) -> AsyncGenerator[AsyncIterator[Delivery]]:
        config = ConsumerConfig(
            durable_name=durable,
            filter_subjects=list(subjects),
            ack_wait=ack_wait_s,
            max_deliver=-1,  # giving a message up is the subscriber's decision, and is logged
            max_ack_pending=_MAX_ACK_PENDING,
        )
        async with aclosing(self._deliveries(config)) as deliveries:
            yield deliveries

    @asynccontextmanager
    async def hints(self, subject: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        with _translated():
            subscription = await self._connected().subscribe(
                subject, pending_msgs_limit=_HINTS_WAITING
            )
            await self._connected().flush()
        try:
            yield (message.data async for message in subscription.messages)
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def show_lag(self, name: str, count: int) -> None:
        with _translated():
            jetstream = self._jetstream()
            try:
                state = (await _answered(jetstream.stream_info(name))).state
            except nats.js.errors.NotFoundError:
                state = await _answered(self._make_lag(jetstream, name))
            if state.messages > count:
                await _answered(jetstream.purge_stream(name, keep=count))
            for sequence in range(state.last_seq, state.last_seq + count - state.messages):
                # Of two who count at once, one is refused here.
                expected = {Header.EXPECTED_LAST_SEQUENCE.value: str(sequence)}
                await _answered(jetstream.publish(_lag_subject(name), b"", headers=expected))

    async def ping(self) -> None:
        with _translated():
            await self._jetstream().stream_info(str(self._stream.name))

    async def close(self) -> None:
        self._closing = True
        while not self._opening.done():  # nats-py may swallow a cancellation
            self._opening.cancel()
            await asyncio.wait([self._opening], timeout=_CANCEL_TIMEOUT_S)
        with suppress(nats.errors.Error):
            await self._client.close()

    def _connected(self) -> Client:
        """Without this check a publish would wait in a buffer, and its failure be unknown."""
        if not self._client.is_connected:
            raise BusUnavailable
        return self._client

    def _jetstream(self) -> JetStreamContext:
        return self._connected().jetstream(timeout=_ANSWER_TIMEOUT_S)

    async def _open(self) -> None:
        self._client = Client()
        login = urlsplit(self._urls[0])
        await self._client.connect(
            self._urls,
            name=self._name,
            user=login.username,  # also for servers of the cluster that the first one tells of
            password=login.password,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
            **_CONNECTION,
        )
        await self._make_stream()

    async def _make_stream(self) -> None:
        for delay_s in retry_delays():
            try:
                with _translated():
                    await self._jetstream().add_stream(self._stream)
                return
            except BusUnavailable as fault:
                refusal = fault.__cause__
                if isinstance(refusal, nats.js.errors.APIError):
                    if refusal.err_code == _STREAM_DIFFERS:  # the operator knows better
                        _log.warning("bus.stream_differs", stream=self._stream.name)
                        return
                    reason = refusal.description
                    _log.error("bus.stream_refused", stream=self._stream.name, reason=reason)
                await asyncio.sleep(delay_s)

    async def _make_lag(self, jetstream: JetStreamContext, name: str) -> StreamState:
        """In memory: whoever shows a lag counts again after an outage."""
        made = await jetstream.add_stream(
            StreamConfig(
                name=name,
                subjects=[_lag_subject(name)],
                storage=StorageType.MEMORY,
                num_replicas=self._stream.num_replicas,
            )
        )
        await jetstream.add_consumer(name, ConsumerConfig(durable_name=name))
        return made.state

    async def _deliveries(self, config: ConsumerConfig) -> AsyncGenerator[Delivery]:
        delays = retry_delays()
        while True:
            with suppress(BusUnavailable):
                async with (
                    self._subscribed(config) as subscription,
                    aclosing(_fetched(subscription)) as messages,
                ):
                    async for message in messages:
                        delays = retry_delays()
                        yield _NatsDelivery(_message(message), message)
            await asyncio.sleep(next(delays))

    @asynccontextmanager
    async def _subscribed(
        self, config: ConsumerConfig
    ) -> AsyncGenerator[JetStreamContext.PullSubscription]:
        stream = str(self._stream.name)
        with _translated():
            await self._jetstream().add_consumer(stream, config)
            subscription = await self._jetstream().pull_subscribe_bind(
                durable=config.durable_name, stream=stream
            )
        try:
            yield subscription
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _on_error(self, error: Exception) -> None:
        """A forbidden publish looks like a timeout to its caller; its cause comes only here."""
        if self._client.is_connected:
            _log.error("bus.error", error=repr(error))

    async def _on_disconnected(self) -> None:
        if not self._closing:
            _log.warning("bus.disconnected")

    async def _on_reconnected(self) -> None:
        """The server may be a new one that lacks the stream."""
        _log.info("bus.reconnected")
        if self._opening.done():
            self._opening = asyncio.ensure_future(self._make_stream())

    async def _on_closed(self) -> None:
        """The client has given up, which it does when the server refuses it; begin anew."""
        if not self._closing and self._opening.done():
            _log.error("bus.closed")
            self._opening = asyncio.ensure_future(self._open())


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise BusUnavailable from error


def _lag_subject(name: str) -> str:
    return f"lag.{name}"


async def _answered(call: Coroutine[Any, Any, T]) -> T:
    """What nats-py answers, in a task of its own: where it waits to flush, it swallows the
    cancellation of its caller, which would then never end."""
    task = asyncio.ensure_future(call)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        done, _ = await asyncio.wait([task], timeout=2 * _ANSWER_TIMEOUT_S)
    finally:
        if not task.done():  # nobody waits any more; left alone it would outlive the connection
            task.cancel()
            await asyncio.wait([task], timeout=_CANCEL_TIMEOUT_S)
    if not done:
        raise BusUnavailable
    return task.result()


async def _fetched(subscription: JetStreamContext.PullSubscription) -> AsyncGenerator[Msg]:
    """Messages one by one, as soon as each is there; ends when the consumer must be asked for
    again. (nats-py's fetch of several waits for all of them until its timeout.)"""
    time_s = asyncio.get_running_loop().time
    while True:
        began_s = time_s()
        try:
            messages = await _answered(subscription.fetch(1, timeout=_FETCH_TIMEOUT_S))
        except TimeoutError:
            if time_s() - began_s < _FETCH_TIMEOUT_S / 2:
                return  # refused rather than empty: the consumer is gone
            continue
        except nats.errors.Error as error:
            raise BusUnavailable from error
        yield messages[0]


def _message(raw: Msg) -> Message:
    headers = raw.headers or {}
    return Message(
        subject=raw.subject,
        payload=raw.data,
        message_id=headers.get(Header.MSG_ID.value, ""),
        deliveries=raw.metadata.num_delivered or 1,
    )
