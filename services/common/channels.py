"""Channels from service to service: the client's own, plus the request id and the deadline of the
call that they are made for."""

from collections.abc import Sequence

import grpc.aio

from anneal import transport
from anneal.transport import (
    CHANNEL_OPTIONS,
    DEFAULT_DEADLINE_S,
    KEEPALIVE_OPTIONS,
    Option,
    Outgoing,
    Tls,
)
from services.common.interceptors import REQUEST_ID, find_call

SERVER_OPTIONS: tuple[Option, ...] = (
    *KEEPALIVE_OPTIONS,
    # How often a client may ping an idle connection; more often, and it is sent away. (The C++ name
    # of this option has a `recv` in it, the channel argument has not.)
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_concurrent_streams", 1000),
    # With the default of 1 a second server on the same port starts, and takes half of its calls.
    ("grpc.so_reuseport", 0),
)


def open_channel(
    address: str,
    *,
    tls: Tls | None = None,
    api_key: str | None = None,
    options: Sequence[Option] = CHANNEL_OPTIONS,
) -> grpc.aio.Channel:
    """`anneal.transport.open_channel` whose calls carry on the one that is being answered."""
    return transport.open_channel(
        address, tls=tls, api_key=api_key, outgoing=_carried_on, options=options
    )


def _carried_on() -> Outgoing:
    call = find_call()
    if call is None:
        return Outgoing()
    remaining_s = call.remaining_s()
    timeout_s = DEFAULT_DEADLINE_S if remaining_s is None else min(DEFAULT_DEADLINE_S, remaining_s)
    return Outgoing(((REQUEST_ID, call.request_id),), timeout_s)
