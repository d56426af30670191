"""Health: serving while every dependency answers."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from anneal.health import main
from services.common.server import ServerSettings, running


class Dependency:
    """Something a probe asks, up or down or not answering at all."""

    def __init__(self, state: str = "up") -> None:
        self.state = state

    async def ping(self) -> None:
        if self.state == "down":
            raise ConnectionError("refused")
        if self.state == "silent":
            await asyncio.sleep(60)


def settings() -> ServerSettings:
    return ServerSettings(probe_every_s=0.05, probe_timeout_s=0.1, drain_s=0, grace_s=1)


async def status(address: str, service: str = "") -> str:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def becomes(expected: str, ask: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while await ask() != expected:
            await asyncio.sleep(0.02)


async def test_a_server_serves_only_after_every_probe_has_answered(echo: Any, events: Any) -> None:
    database, bus = Dependency("down"), Dependency("silent")
    ready: list[str] = []
    async with running(
        settings(),
        [echo.echo_service(echo.Echo())],
        {"database": database.ping, "bus": bus.ping},
        on_ready=ready.append,
        wait_serving=False,
    ) as address:
        await asyncio.sleep(0.3)
        assert await status(address) == "NOT_SERVING"
        database.state = "up"
        await asyncio.sleep(0.3)
        assert await status(address) == "NOT_SERVING"
        assert ready == []
        bus.state = "up"
        await becomes("SERVING", lambda: status(address))
        assert await status(address, echo.NAME) == "SERVING"
        assert ready == [address]

    assert {"event": "server.ready", "address": address}.items() <= next(
        event for event in events() if event["event"] == "server.ready"
    ).items()


@pytest.mark.parametrize("failure", ["down", "silent"])
async def test_a_lost_dependency_ends_it_and_its_return_brings_it_back(
    echo: Any, events: Any, failure: str
) -> None:
    database = Dependency()
    probes = {"database": database.ping}
    async with running(settings(), [echo.echo_service(echo.Echo())], probes) as address:
        assert await status(address) == "SERVING"
        database.state = failure
        await becomes("NOT_SERVING", lambda: status(address, echo.NAME))
        database.state = "up"
        await becomes("SERVING", lambda: status(address))

    [lost] = [event for event in events() if event["event"] == "health.lost"]
    assert lost["probes"] == ["database"]


async def test_one_failure_alone_is_forgiven(echo: Any, events: Any) -> None:
    answers = iter([True, False, True, False, True])

    async def flickering() -> None:
        if not next(answers, True):
            raise ConnectionError

    service = echo.echo_service(echo.Echo())
    async with running(settings(), [service], {"bus": flickering}):
        await asyncio.sleep(0.5)

    names = [event["event"] for event in events()]
    assert names.count("health.probe_failed") == 2
    assert "health.lost" not in names


async def test_an_unknown_service_has_no_health(echo: Any, events: Any) -> None:
    async with running(settings(), [echo.echo_service(echo.Echo())], {}) as address:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status(address, "echo.v1.Nobody")

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watcher_sees_every_change_and_does_not_hold_up_the_stop(
    echo: Any, events: Any
) -> None:
    database = Dependency()
    seen: list[int] = []

    async def watch(channel: grpc.aio.Channel) -> None:
        stub = health_pb2_grpc.HealthStub(channel)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest(service="")):
            seen.append(answer.status)

    slow = ServerSettings(probe_every_s=0.05, drain_s=0.05, grace_s=30)
    service = echo.echo_service(echo.Echo())
    async with running(slow, [service], {"database": database.ping}) as address:
        channel = grpc.aio.insecure_channel(address)
        watching = asyncio.create_task(watch(channel))
        await becomes("SERVING", lambda: status(address))
        database.state = "down"
        await becomes("NOT_SERVING", lambda: status(address))
        database.state = "up"
        await becomes("SERVING", lambda: status(address))
        stopping = asyncio.get_running_loop().time()

    assert asyncio.get_running_loop().time() - stopping < 5
    await watching
    await channel.close()
    serving, not_serving = (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    )
    assert seen == [serving, not_serving, serving, not_serving]


async def test_the_log_says_why_a_dependency_does_not_answer(echo: Any, events: Any) -> None:
    async def ping() -> None:
        raise ConnectionError("it does not answer") from ValueError("no such bucket\nand more")

    service = echo.echo_service(echo.Echo())
    async with running(settings(), [service], {"blobs": ping}, wait_serving=False):
        await asyncio.sleep(0.1)
    failed = [event for event in events() if event["event"] == "health.probe_failed"]
    assert {event["reason"] for event in failed} == {"no such bucket"}


async def test_a_container_asks_by_a_command(echo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    service = echo.echo_service(echo.Echo())
    async with running(settings(), [service], {}) as address:
        assert await asyncio.to_thread(main, [address]) == 0
    assert await asyncio.to_thread(main, [address]) == 1
    assert capsys.readouterr().err == f"{address}: does not serve\n"


@pytest.mark.parametrize("arguments", [[], ["localhost:1", "localhost:2"]])
def test_the_command_wants_one_address(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_the_command_says_which_file_it_can_not_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANNEAL_TLS_CA", "/nowhere/ca.pem")
    assert main(["localhost:1"]) == 1
    assert "/nowhere/ca.pem" in capsys.readouterr().err
