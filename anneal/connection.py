"""One service's channel and how calls on it are made: deadline, request id, errors."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

import grpc
from google.protobuf.message import Message

from anneal.statuses import REQUEST_ID, error_from
from anneal.transport import DEFAULT_DEADLINE_S

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Item = TypeVar("Item")
Metadata = tuple[tuple[str, str], ...]


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
        """Sends one request and yields the answers. Closing the iterator cancels the call."""
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
