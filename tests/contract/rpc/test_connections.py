"""Connections whose other end has vanished without a word."""

import asyncio
from typing import Any

import grpc
import pytest

from anneal.transport import CHANNEL_OPTIONS, open_channel
from services.common.channels import SERVER_OPTIONS
from services.common.server import ServerSettings, running
from services.common.testing.fault_proxy import FaultProxy

QUIET_S = 6
"""Longer than the three pings after which a server that minds them sends a client away."""

SCALED = {
    "grpc.keepalive_time_ms": 1000,
    "grpc.http2.ping_timeout_ms": 1000,
    "grpc.http2.min_ping_interval_without_data_ms": 500,
}


def scaled(options: Any) -> list[tuple[str, int | str]]:
    """The shipped options with shorter times. Every option scaled must be among them."""
    return [(name, SCALED.get(name, value)) for name, value in options]


def test_the_shipped_options_hold_what_detection_needs() -> None:
    assert dict(CHANNEL_OPTIONS)["grpc.http2.ping_timeout_ms"] == 10_000
    assert set(SCALED) <= set(dict(SERVER_OPTIONS))
    assert dict(SERVER_OPTIONS)["grpc.so_reuseport"] == 0


async def test_a_black_hole_is_noticed_by_both_ends(
    echo: Any, pb: Any, stub: Any, events: Any
) -> None:
    servicer = echo.Echo()
    settings = ServerSettings(drain_s=0, grace_s=0)
    service = echo.echo_service(servicer)
    async with running(settings, [service], {}, options=scaled(SERVER_OPTIONS)) as address:
        host, _, port = address.partition(":")
        async with (
            FaultProxy(host, int(port)) as proxy,
            open_channel(proxy.address, options=scaled(CHANNEL_OPTIONS)) as channel,
        ):
            watching = stub(channel).Watch(pb.EchoRequest(text="beat"))
            assert (await anext(aiter(watching))).text == "beat"
            proxy.black_hole()

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async with asyncio.timeout(10):
                    await drained(watching)
            async with asyncio.timeout(10):
                await servicer.watches_ended.wait()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_quiet_stream_is_not_sent_away_for_its_keepalive_pings(
    echo: Any, pb: Any, stub: Any
) -> None:
    settings = ServerSettings(drain_s=0, grace_s=0)
    service = echo.echo_service(echo.Echo())
    async with (
        running(settings, [service], {}, options=scaled(SERVER_OPTIONS)) as address,
        open_channel(address, options=scaled(CHANNEL_OPTIONS)) as channel,
    ):
        chat = stub(channel).Chat()
        await chat.write(pb.EchoRequest(text="hello"))
        assert (await chat.read()).text == "hello"

        states: set[grpc.ChannelConnectivity] = set()
        for _ in range(QUIET_S * 10):
            await asyncio.sleep(0.1)
            states.add(channel.get_state())

        assert states == {grpc.ChannelConnectivity.READY}
        await chat.done_writing()


async def drained(messages: Any) -> None:
    async for _ in messages:
        pass
