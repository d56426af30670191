"""How a client reaches a service: channel options, retries, TLS, and what goes with every call."""

# grpc's classes are generic in their stubs only.
from __future__ import annotations

import ipaddress
import json
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import grpc
import grpc.aio

Option = tuple[str, int | str]
Request = TypeVar("Request")
Response = TypeVar("Response")

AUTHORIZATION = "authorization"
# Tells a server how big a google.rpc.Status our METADATA_LIMIT_BYTES can take.
STATUS_LIMIT = ("x-anneal-status-limit", str(48 * 1024))
DEFAULT_DEADLINE_S = 30.0
METADATA_LIMIT_BYTES = 64 * 1024

# grpcio 1.85 never fires grpc.keepalive_timeout_ms (grpc/grpc#39239): the HTTP/2 ping timeout is
# what ends a connection whose peer is gone. Both ends set these: each frees only itself.
KEEPALIVE_OPTIONS: tuple[Option, ...] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_metadata_size", METADATA_LIMIT_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_LIMIT_BYTES),
)

STREAMS = (
    ("anneal.dataset.v1.DatasetService", "DownloadDatasetVersion"),
    ("anneal.dataset.v1.DatasetService", "ProveMasks"),
    ("anneal.dataset.v1.DatasetService", "UploadDatasetVersion"),
    ("anneal.inference.v1.InferenceService", "StreamGenerateText"),
    ("anneal.registry.v1.RegistryService", "DownloadModelVersion"),
    ("anneal.trainer.v1.TuningJobService", "WatchTuningJob"),
)
"""Calls that gRPC must not repeat: a stream that it repeats while the server is killed never ends
(grpcio 1.85.1; docs/reliability.md). Those who call them do."""

# UNAVAILABLE is the one code that a client repeats by itself (AIP-194). It may repeat every call:
# reads change nothing, and mutations carry a request_id.
SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            },
            {"name": [{"service": service, "method": method} for service, method in STREAMS]},
        ]
    }
)

# grpc takes the environment's http_proxy even to this machine, unless no_proxy is set as well.
WITHOUT_PROXY: Option = ("grpc.enable_http_proxy", 0)

CHANNEL_OPTIONS: tuple[Option, ...] = (
    *KEEPALIVE_OPTIONS,
    ("grpc.enable_retries", 1),
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True)
class Tls:
    """`ca_file` None trusts the roots that grpc ships; `cert_file` and `key_file` identify us."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @classmethod
    def find(cls, environment: Mapping[str, str]) -> Self | None:
        """What `ANNEAL_TLS_CA`, `ANNEAL_TLS_CERT` and `ANNEAL_TLS_KEY` name; None without them."""
        ca_file, cert_file, key_file = (
            Path(path) if (path := environment.get(f"ANNEAL_TLS_{part}")) else None
            for part in ("CA", "CERT", "KEY")
        )
        return cls(ca_file, cert_file, key_file) if ca_file or cert_file else None

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files. Raises OSError."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca_file.read_bytes() if self.ca_file else None,
            private_key=self.key_file.read_bytes() if self.key_file else None,
            certificate_chain=self.cert_file.read_bytes() if self.cert_file else None,
        )


class Outgoing(NamedTuple):
    """What goes with a call: metadata, and its deadline if it is unary and brings none."""

    metadata: tuple[tuple[str, str], ...] = ()
    timeout_s: float | None = DEFAULT_DEADLINE_S


def open_channel(
    address: str,
    *,
    tls: Tls | None = None,
    api_key: str | None = None,
    outgoing: Callable[[], Outgoing] = Outgoing,
    options: Sequence[Option] = CHANNEL_OPTIONS,
) -> grpc.aio.Channel:
    """An asyncio channel to `host:port`; connects at its first call.

    `outgoing` is asked at every call. Raises ValueError rather than send a key in clear text
    over a network.
    """
    sent = _always(address, tls, api_key, outgoing)
    options = _reaching(address, options)
    interceptors = (_UnaryUnary(sent), _UnaryStream(sent), _StreamUnary(sent), _StreamStream(sent))
    if tls is None:
        return grpc.aio.insecure_channel(address, options, interceptors=interceptors)
    return grpc.aio.secure_channel(address, tls.credentials(), options, interceptors=interceptors)


def open_blocking_channel(
    address: str,
    *,
    tls: Tls | None = None,
    api_key: str | None = None,
    outgoing: Callable[[], Outgoing] = Outgoing,
    options: Sequence[Option] = CHANNEL_OPTIONS,
) -> grpc.Channel:
    """The same channel for callers without asyncio."""
    sent = _always(address, tls, api_key, outgoing)
    options = _reaching(address, options)
    channel = (
        grpc.insecure_channel(address, options)
        if tls is None
        else grpc.secure_channel(address, tls.credentials(), options)
    )
    return grpc.intercept_channel(channel, _Blocking(sent))


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine can be at `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_here(address: str) -> bool:
    return is_loopback(address.rpartition(":")[0])


def _reaching(address: str, options: Sequence[Option]) -> Sequence[Option]:
    return (*options, WITHOUT_PROXY) if _is_here(address) else options


def _always(
    address: str, tls: Tls | None, api_key: str | None, outgoing: Callable[[], Outgoing]
) -> Callable[[], Outgoing]:
    always = (STATUS_LIMIT,)
    if api_key:
        if tls is None and not _is_here(address):
            raise ValueError(f"an API key goes to {address} over TLS only; give the CA's file")
        always = (STATUS_LIMIT, (AUTHORIZATION, f"Bearer {api_key}"))

    def sent() -> Outgoing:
        metadata, timeout_s = outgoing()
        return Outgoing((*always, *metadata), timeout_s)

    return sent


def _details(
    given: grpc.aio.ClientCallDetails, sent: Outgoing, *, unary: bool
) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(given.metadata or ()), *sent.metadata)
    timeout = sent.timeout_s if unary and given.timeout is None else given.timeout
    return grpc.aio.ClientCallDetails(
        given.method, timeout, metadata, given.credentials, given.wait_for_ready
    )


@dataclass(frozen=True)
class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    sent: Callable[[], Outgoing]

    async def intercept_unary_unary(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, Request],
            Awaitable[grpc.aio.UnaryUnaryCall[Request, Response]],
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Request,
    ) -> grpc.aio.UnaryUnaryCall[Request, Response]:
        return await continuation(_details(client_call_details, self.sent(), unary=True), request)


@dataclass(frozen=True)
class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    sent: Callable[[], Outgoing]

    async def intercept_unary_stream(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, Request],
            Awaitable[grpc.aio.UnaryStreamCall[Request, Response]],
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Request,
    ) -> grpc.aio.UnaryStreamCall[Request, Response]:
        return await continuation(_details(client_call_details, self.sent(), unary=False), request)


@dataclass(frozen=True)
class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    sent: Callable[[], Outgoing]

    async def intercept_stream_unary(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, AsyncIterable[Request] | Iterable[Request]],
            Awaitable[grpc.aio.StreamUnaryCall[Request, Response]],
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: AsyncIterable[Request] | Iterable[Request],
    ) -> grpc.aio.StreamUnaryCall[Request, Response]:
        details = _details(client_call_details, self.sent(), unary=False)
        return await continuation(details, request_iterator)


@dataclass(frozen=True)
class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    sent: Callable[[], Outgoing]

    async def intercept_stream_stream(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, AsyncIterable[Request] | Iterable[Request]],
            Awaitable[grpc.aio.StreamStreamCall[Request, Response]],
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: AsyncIterable[Request] | Iterable[Request],
    ) -> grpc.aio.StreamStreamCall[Request, Response]:
        details = _details(client_call_details, self.sent(), unary=False)
        return await continuation(details, request_iterator)


class _BlockingDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


@dataclass(frozen=True)
class _Blocking(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    sent: Callable[[], Outgoing]

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        return continuation(self._details(client_call_details, unary=True), request)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        return continuation(self._details(client_call_details), request)

    def intercept_stream_unary(
        self,
        continuation: Any,
        client_call_details: grpc.ClientCallDetails,
        request_iterator: Iterator[Any],
    ) -> Any:
        return continuation(self._details(client_call_details), request_iterator)

    def intercept_stream_stream(
        self,
        continuation: Any,
        client_call_details: grpc.ClientCallDetails,
        request_iterator: Iterator[Any],
    ) -> Any:
        return continuation(self._details(client_call_details), request_iterator)

    def _details(self, given: grpc.ClientCallDetails, *, unary: bool = False) -> _BlockingDetails:
        sent = self.sent()
        return _BlockingDetails(
            given.method,
            sent.timeout_s if unary and given.timeout is None else given.timeout,
            (*(given.metadata or ()), *sent.metadata),
            given.credentials,
            given.wait_for_ready,
            given.compression,
        )
