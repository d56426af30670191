"""Start and stop: what refuses to start, and how a running server ends."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.common.listening import PortTaken
from services.common.policies import PolicyMissing
from services.common.process import StartupError
from services.common.server import (
    BackgroundDied,
    ServerSettings,
    Service,
    Unimplemented,
    running,
    serve,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
QUICK = ServerSettings(drain_s=0, grace_s=0.5)


class Program:
    """echo_service.py as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []

    async def event(self, name: str) -> dict[str, Any]:
        """Reads the log until the event."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            async for line in self.process.stderr:
                self.events.append(json.loads(line))
                if self.events[-1]["event"] == name:
                    return self.events[-1]
        raise AssertionError(f"no {name} in {self.events}")


@asynccontextmanager
async def program(stubs_dir: Path, **env: str) -> AsyncGenerator[Program]:
    path = os.pathsep.join(map(str, (ROOT, HERE, stubs_dir)))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "echo_service.py"),
        env={"PYTHONPATH": path, "PATH": os.environ["PATH"]} | env,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_sigterm_lets_a_call_in_flight_finish_and_refuses_new_ones(
    stubs_dir: Path, pb: Any, stub: Any
) -> None:
    async with program(stubs_dir) as echo_program:
        address = (await echo_program.event("server.ready"))["address"]
        async with (
            grpc.aio.insecure_channel(address) as channel,
            grpc.aio.insecure_channel(
                address, [("grpc.use_local_subchannel_pool", 1)]
            ) as late_channel,
        ):
            call = asyncio.create_task(said(stub(channel), pb, "1.5"))
            await asyncio.sleep(0.5)
            echo_program.process.send_signal(signal.SIGTERM)
            await echo_program.event("server.stopping")
            await asyncio.sleep(0.4)
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await said(stub(late_channel), pb, "0")

            assert late.value.code() is grpc.StatusCode.UNAVAILABLE
            assert await call == "done by local"
        await echo_program.event("server.stopped")

        assert await echo_program.process.wait() == 0


async def said(stub: Any, pb: Any, text: str) -> str:
    return str((await stub.Say(pb.EchoRequest(text=text))).text)


async def test_a_call_longer_than_the_grace_is_cut(stubs_dir: Path, pb: Any, stub: Any) -> None:
    async with program(stubs_dir, ANNEAL_SERVER_GRACE_S="0.2") as echo_program:
        address = (await echo_program.event("server.ready"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            call = asyncio.create_task(said(stub(channel), pb, "60"))
            await asyncio.sleep(0.3)
            echo_program.process.send_signal(signal.SIGINT)
            with pytest.raises(grpc.aio.AioRpcError):
                await call

        async with asyncio.timeout(10):
            assert await echo_program.process.wait() == 0


async def test_the_second_server_on_a_port_is_refused_in_one_line(
    stubs_dir: Path, echo: Any, events: Any
) -> None:
    async with running(QUICK, [echo.echo_service(echo.Echo())], {}) as address:
        async with program(stubs_dir, ANNEAL_SERVER_LISTEN=address) as second:
            assert second.process.stderr is not None
            said_to_user = (await second.process.stderr.read()).decode()
            code = await second.process.wait()

        with pytest.raises(PortTaken):
            async with running(ServerSettings(address), [echo.echo_service(echo.Echo())], {}):
                pass

    assert code == 1
    assert said_to_user.splitlines() == [
        f"anneal: cannot listen on {address}: the port is taken; stop its user or choose another "
        "port"
    ]


async def test_every_wrong_setting_is_one_line_too(stubs_dir: Path) -> None:
    wrong = {"ANNEAL_SERVER_GRACE_S": "soon", "ANNEAL_SERVER_REFLECTION": "perhaps"}
    async with program(stubs_dir, **wrong) as refused:
        assert refused.process.stderr is not None
        [line] = (await refused.process.stderr.read()).decode().splitlines()
        assert await refused.process.wait() == 1

    assert line.startswith("anneal: configuration: ")
    assert "ANNEAL_SERVER_GRACE_S" in line
    assert "ANNEAL_SERVER_REFLECTION" in line


async def test_methods_without_a_usable_policy_are_named_at_start(pb: Any, echo: Any) -> None:
    class Lawless:
        async def Say(self, request: Any, context: Any) -> None: ...
        async def Whisper(self, request: Any, context: Any) -> None: ...
        async def Shout(self, request: Any, context: Any) -> None: ...

    service = Service("echo.v1.LawlessService", lambda servicer, server: None, Lawless())

    with pytest.raises(PolicyMissing) as refused:
        async with running(QUICK, [service], {}):
            pass

    assert "LawlessService.Say has no permission" in str(refused.value)
    assert "LawlessService.Whisper: 'nam' is no text field" in str(refused.value)
    assert "LawlessService.Shout: 'header' is no text field" in str(refused.value)


async def test_a_service_that_is_not_in_the_stubs_is_named_at_start(echo: Any) -> None:
    with pytest.raises(PolicyMissing, match=r"echo\.v1\.Nobody"):
        async with running(QUICK, [Service("echo.v1.Nobody", lambda a, b: None, object())], {}):
            pass


async def test_a_servicer_without_one_of_its_methods_does_not_start(echo: Any, pb: Any) -> None:
    class Blocking(echo.Echo):
        def Say(self, request: Any, context: Any) -> Any:
            return pb.EchoResponse()

        async def Watch(self, request: Any, context: Any) -> Any:
            await context.write(pb.EchoResponse())

    with pytest.raises(Unimplemented, match="Say, Watch"):
        async with running(QUICK, [echo.echo_service(Blocking())], {}):
            pass


async def test_a_service_registered_but_not_declared_does_not_start(echo: Any) -> None:
    from echo_pb2_grpc import add_LawlessServiceServicer_to_server

    class Both(echo.Echo):
        async def Whisper(self, request: Any, context: Any) -> Any: ...
        async def Shout(self, request: Any, context: Any) -> Any: ...

    service = Service(echo.NAME, add_LawlessServiceServicer_to_server, Both())

    with pytest.raises(PolicyMissing, match="LawlessService/Say is of no declared"):
        async with running(QUICK, [service], {}):
            pass


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:", "127.0.0.1:99999", ":50051"])
async def test_an_address_that_is_none_is_said(echo: Any, listen: str) -> None:
    with pytest.raises(StartupError, match="give host:port"):
        async with running(ServerSettings(listen), [echo.echo_service(echo.Echo())], {}):
            pass


async def test_background_work_that_dies_ends_the_server_and_says_why(
    echo: Any, events: Any
) -> None:
    async def relay() -> None:
        await asyncio.sleep(0.05)
        raise OSError("the disk is full")

    with pytest.raises(BackgroundDied, match=r"relay died.*the disk is full"):
        await serve(QUICK, [echo.echo_service(echo.Echo())], {}, [relay])

    names = [event["event"] for event in events()]
    assert names.index("background.died") < names.index("server.stopped")


async def test_background_work_that_just_returns_ends_it_too(echo: Any, events: Any) -> None:
    async def reaper() -> None:
        return

    with pytest.raises(BackgroundDied, match="reaper ended"):
        await serve(QUICK, [echo.echo_service(echo.Echo())], {}, [reaper])


async def test_background_work_outlives_the_last_call_and_is_stopped(
    echo: Any, events: Any
) -> None:
    stopped = asyncio.Event()

    async def consumer() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async with running(QUICK, [echo.echo_service(echo.Echo())], {}, [consumer]):
        await asyncio.sleep(0.05)
        assert not stopped.is_set()

    assert stopped.is_set()


async def reflected(address: str) -> set[str]:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async with grpc.aio.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        async for answer in stub.ServerReflectionInfo(iter([request])):
            return {service.name for service in answer.list_services_response.service}
    return set()


async def test_reflection_lists_the_services_on_loopback(echo: Any, events: Any) -> None:
    async with running(QUICK, [echo.echo_service(echo.Echo())], {}) as address:
        assert {echo.NAME, "grpc.health.v1.Health"} <= await reflected(address)


async def test_reflection_can_be_turned_off(echo: Any, events: Any) -> None:
    settings = ServerSettings(reflection=False, drain_s=0)
    async with running(settings, [echo.echo_service(echo.Echo())], {}) as address:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflected(address)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
