"""News between services: a durable stream of events, and hints that may be lost.

SQL owns every state; the bus only carries the news of it. Losing the bus loses no state.
"""

import random
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from services.common.faults import Unavailable

MAX_PAYLOAD_BYTES = 512 * 1024
"""An event is small; artifacts travel as blobs."""

_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_MAX_SUBJECT_CHARACTERS = 255
_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 5.0


class BusUnavailable(Unavailable):
    """The bus did not confirm in time. Publish again with the same message id."""

    def __init__(self) -> None:
        super().__init__("BUS_UNAVAILABLE", "the event bus does not answer; try again")


@dataclass(frozen=True)
class Message:
    """An event. `deliveries` is 1 for the first delivery to a durable consumer."""

    subject: str
    payload: bytes
    message_id: str
    deliveries: int = 1


class Delivery(Protocol):
    """A message that this subscriber must answer within `ack_wait_s`, or it is delivered again.

    Answers raise BusUnavailable if they cannot be sent.
    """

    @property
    def message(self) -> Message: ...

    async def ack(self) -> None:
        """It had its effect; never deliver it to this durable consumer again."""
        ...

    async def nak(self, delay_s: float) -> None:
        """Deliver it again after a delay."""
        ...

    async def terminate(self) -> None:
        """Give it up: never deliver it again although it had no effect."""
        ...


class Bus(Protocol):
    """What services know of a message broker."""

    async def publish(self, subject: str, payload: bytes, message_id: str) -> None:
        """Returns when the stream holds the message. One message id is stored once within the
        stream's duplicate window (10 minutes). Raises BusUnavailable."""
        ...

    async def hint(self, subject: str, payload: bytes = b"") -> None:
        """Tells whoever listens right now. May be lost; never raises on an outage. The subject
        lies outside the stream: `hint.…`."""
        ...

    def subscribe(
        self, durable: str, subjects: Sequence[str], *, ack_wait_s: float = 30.0
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Every message of the stream that matches `subjects`, from its beginning, once answered
        never again under this durable name. The iterator goes on through outages."""
        ...

    def hints(self, subject: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Payloads of the hints that arrive from now on; a slow reader loses some. The subject
        may hold the wildcards `*` (one token) and a final `>` (all that follow)."""
        ...

    async def show_lag(self, name: str, count: int) -> None:
        """Makes `count` the lag of a durable consumer `name` on a stream of the same name, from
        which nobody takes anything: autoscalers know how to read that. Raises BusUnavailable, and
        then shows something in between."""
        ...

    async def ping(self) -> None:
        """Raises BusUnavailable unless the stream answers."""
        ...

    async def close(self) -> None: ...


def require_subject(subject: str) -> str:
    """The subject itself if it can be published to (no wildcard), else ValueError."""
    if len(subject) > _MAX_SUBJECT_CHARACTERS or _SUBJECT.fullmatch(subject) is None:
        raise ValueError(f"not a subject: {subject!r}")
    return subject


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is one that a pattern with `*` and `>` asks for."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, rest = wanted[:-1], tokens[len(wanted) - 1 :]
        tokens = tokens[: len(wanted)]
        if not rest:
            return False
    return len(wanted) == len(tokens) and all(
        want in ("*", token) for want, token in zip(wanted, tokens, strict=True)
    )


def retry_delays(jitter: Callable[[], float] = random.random) -> Iterator[float]:
    """Seconds to wait before each next try: 0.1 doubling up to 5, each drawn from its upper half
    so that many clients do not return at once. `jitter` is uniform in [0, 1)."""
    delay = _FIRST_DELAY_S
    while True:
        yield delay * (0.5 + 0.5 * jitter())
        delay = min(delay * 2, _MAX_DELAY_S)
