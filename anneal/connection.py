"""One service's channel and how calls on it are made: deadline, request id, errors."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

import grpc
from google.protobuf.message import Message

from anneal.errors import Unavailable
from anneal.statuses import REQUEST_ID, error_from
from anneal.transport import DEFAULT_DEADLINE_S

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Item = TypeVar("Item")
Metadata = tuple[tuple[str, str], ...]

_PAUSES_S = (0.1, 0.2, 0.4, 0.8)


def new_request_id() -> str:
    return str(uuid4())


@dataclass(frozen=True)
class Connection:
    """A channel to `address`. Every failed call raises an AnnealError."""

    address: str
    channel: grpc.Channel

    def ask(
        self,
        rpc: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        timeout_s: float = DEFAULT_DEADLINE_S,
    ) -> Response:
        """Sends one request and returns the answer."""
        with self._call() as metadata:
            return rpc(request, timeout=timeout_s, metadata=metadata)

    def send(
        self,
        rpc: "grpc.StreamUnaryMultiCallable[Request, Response]",
        requests: Iterable[Request],
        timeout_s: float | None = None,
    ) -> Response:
        """Sends a stream of requests and returns the answer. Without a deadline by default."""
        with self._call() as metadata:
            return rpc(iter(requests), timeout=timeout_s, metadata=metadata)

    def follow(
        self,
        rpc: "grpc.UnaryStreamMultiCallable[Request, Response]",
        request: Request,
        timeout_s: float | None = None,
    ) -> Generator[Response]:
        """Sends one request and yields the answers. Closing the iterator cancels the call.

        Asks again while the service is away and no answer has come: gRPC does so for other calls.
        """
        pauses_s = iter(_PAUSES_S)
        began_s = time.monotonic()
        while True:
            answered = False
            left_s = None if timeout_s is None else timeout_s - (time.monotonic() - began_s)
            try:
                with closing(self._once(rpc, request, left_s)) as answers:
                    for answer in answers:
                        answered = True
                        yield answer
                return
            except Unavailable:
                pause_s = next(pauses_s, None)
                if answered or pause_s is None:
                    raise
            time.sleep(pause_s)

    def _once(
        self,
        rpc: "grpc.UnaryStreamMultiCallable[Request, Response]",
        request: Request,
        timeout_s: float | None,
    ) -> Generator[Response]:
        with self._call() as metadata:
            answers = rpc(request, timeout=timeout_s, metadata=metadata)
            try:
                yield from answers
            finally:
                answers.cancel()

    @contextmanager
    def _call(self) -> Generator[Metadata]:
        request_id = new_request_id()
        try:
            yield ((REQUEST_ID, request_id),)
        except grpc.RpcError as error:
            raise error_from(error, self.address, request_id) from error


def items_of_pages(ask: Callable[[str], tuple[Iterable[Item], str]]) -> Iterator[Item]:
    """Yields the items of all pages; `ask(page_token)` returns items and the next token."""
    token = ""
    while True:
        items, token = ask(token)
        yield from items
        if not token:
            return
