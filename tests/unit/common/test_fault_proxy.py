"""A network that is slow is as slow as it was told to be, and heals."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.common.testing.fault_proxy import FaultProxy

SOME = b"x" * 1000


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(4096):
        writer.write(piece)
    writer.close()


@asynccontextmanager
async def proxied(kind: str, directory: Path) -> AsyncGenerator[FaultProxy]:
    if kind == "socket":
        path = directory / "echo.socket"
        server = await asyncio.start_unix_server(echo, path)
        proxy = FaultProxy.to_socket(path)
    else:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        proxy = FaultProxy(*server.sockets[0].getsockname())
    async with server, proxy:
        yield proxy


async def there_and_back_s(proxy: FaultProxy) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    began_s = time.monotonic()
    writer.write(SOME)
    assert await reader.readexactly(len(SOME)) == SOME
    writer.close()
    return time.monotonic() - began_s


async def test_who_is_stranded_hears_nothing_for_good_and_others_are_heard(tmp_path: Path) -> None:
    async with proxied("port", tmp_path) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(SOME)
        await reader.readexactly(len(SOME))
        proxy.strand()
        await there_and_back_s(proxy)
        proxy.heal()
        writer.write(SOME)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.readexactly(len(SOME))
        writer.close()


@pytest.mark.parametrize("kind", ["port", "socket"])
async def test_latency_and_rate_count_both_ways_until_it_heals(kind: str, tmp_path: Path) -> None:
    async with proxied(kind, tmp_path) as proxy:
        proxy.latency_s, proxy.bytes_per_s = 0.02, 20_000
        assert await there_and_back_s(proxy) >= 2 * (0.02 + len(SOME) / 20_000)
        proxy.heal()
        assert (proxy.latency_s, proxy.bytes_per_s) == (0, None)
        await there_and_back_s(proxy)
