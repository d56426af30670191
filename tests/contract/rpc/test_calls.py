"""Deadlines, request ids, the access log and cancellation."""

import asyncio
from typing import Any

import grpc
import pytest

from services.common import channels
from services.common.interceptors import current_call
from services.common.server import ServerSettings, running


async def sleep(text: str) -> str:
    await asyncio.sleep(float(text))
    return text


async def remaining(text: str) -> str:
    return str(current_call().remaining_s())


async def access(events: Any, count: int = 1) -> list[dict[str, Any]]:
    async with asyncio.timeout(5):
        while True:
            logged = [event for event in events() if event["event"] == "rpc"]
            if len(logged) >= count:
                return logged
            await asyncio.sleep(0.01)


async def test_a_call_without_a_deadline_gets_the_servers(served: Any, echo: Any, pb: Any) -> None:
    async with served(echo.Echo(sleep), {"default_deadline_s": 0.1}) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Say(pb.EchoRequest(text="30"))

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_method_may_have_a_longer_default(served: Any, echo: Any, pb: Any) -> None:
    options = {"limits": {"Say": 20.0}}
    async with served(echo.Echo(sleep), {"default_deadline_s": 0.05}, **options) as stub:
        assert (await stub.Say(pb.EchoRequest(text="0.2"))).text == "0.2"


async def test_the_clients_own_deadline_is_kept(served: Any, echo: Any, pb: Any) -> None:
    async with served(echo.Echo(remaining), {"default_deadline_s": 0.05}) as stub:
        answer = await stub.Say(pb.EchoRequest(), timeout=20)

    assert 15 < float(answer.text) < 25


async def test_a_stream_has_no_default_deadline(served: Any, echo: Any, pb: Any) -> None:
    async with served(echo.Echo(remaining), {"default_deadline_s": 0.05}) as stub:
        watching = stub.Watch(pb.EchoRequest())
        texts = [(await watching.read()).text for _ in range(5)]
        watching.cancel()

    assert texts == ["None"] * 5


async def test_a_timeout_of_the_handlers_own_is_not_the_deadline(
    served: Any, echo: Any, pb: Any
) -> None:
    async def give_up(text: str) -> str:
        raise TimeoutError("of something else")

    async with served(echo.Echo(give_up)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Say(pb.EchoRequest())

    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_every_call_is_logged_once(served: Any, echo: Any, pb: Any, events: Any) -> None:
    async with served(echo.Echo()) as stub:
        await stub.Say(pb.EchoRequest(), metadata=(("x-request-id", "abc-1"),))
        [logged] = await access(events)

    assert logged["method"] == "/echo.v1.EchoService/Say"
    assert logged["code"] == "OK"
    assert logged["request_id"] == "abc-1"
    assert logged["principal"] == "local"
    assert logged["duration_ms"] >= 0


@pytest.mark.parametrize("hostile", ["", "x" * 65, "a b", 'a"b'])
async def test_a_request_id_that_is_none_is_replaced(
    served: Any, echo: Any, pb: Any, events: Any, hostile: str
) -> None:
    async def own_id(text: str) -> str:
        return current_call().request_id

    async with served(echo.Echo(own_id)) as stub:
        ids = [
            (await stub.Say(pb.EchoRequest(), metadata=(("x-request-id", hostile),))).text
            for _ in range(2)
        ]

    assert hostile not in ids
    assert len(set(ids)) == 2


async def test_a_client_that_goes_away_is_logged_as_such_and_not_as_an_error(
    served: Any, echo: Any, pb: Any, events: Any
) -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    async def wait(text: str) -> str:
        entered.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return text

    async with served(echo.Echo(wait)) as stub:
        call = stub.Say(pb.EchoRequest())
        sending = asyncio.ensure_future(_awaited(call))
        await entered.wait()
        call.cancel()
        await asyncio.wait([sending])
        async with asyncio.timeout(5):
            await ended.wait()
        [logged] = await access(events)

    assert (logged["code"], logged["level"]) == ("CANCELLED", "info")
    assert [event for event in events() if event["level"] in {"error", "warning"}] == []


async def _awaited(call: Any) -> Any:
    return await call


async def test_a_deadline_that_passes_is_logged_as_such(
    served: Any, echo: Any, pb: Any, events: Any
) -> None:
    async with served(echo.Echo(sleep)) as stub:
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Say(pb.EchoRequest(text="60"), timeout=0.1)
        [logged] = await access(events)

    assert (logged["code"], logged["level"]) == ("DEADLINE_EXCEEDED", "info")


async def test_a_watch_ends_when_its_client_goes_away(
    served: Any, echo: Any, pb: Any, events: Any
) -> None:
    servicer = echo.Echo()
    async with served(servicer) as stub:
        watching = stub.Watch(pb.EchoRequest())
        await watching.read()
        watching.cancel()
        async with asyncio.timeout(5):
            await servicer.watches_ended.wait()
        [logged] = await access(events)

    assert logged["code"] == "CANCELLED"


async def test_an_upload_with_no_message_reaches_the_handler_empty(served: Any, echo: Any) -> None:
    async with served(echo.Echo()) as stub:
        assert (await stub.Upload(iter([]))).text == ""


async def test_a_call_made_for_a_call_carries_its_id_and_its_deadline(
    echo: Any, pb: Any, stub: Any, events: Any
) -> None:
    settings = ServerSettings(drain_s=0)

    async def inner_answer(text: str) -> str:
        call = current_call()
        return f"{call.request_id} {call.remaining_s()}"

    async with (
        running(settings, [echo.echo_service(echo.Echo(inner_answer))], {}) as inner,
        channels.open_channel(inner) as behind,
    ):

        async def ask(text: str) -> str:
            return str((await stub(behind).Say(pb.EchoRequest())).text)

        async with (
            running(settings, [echo.echo_service(echo.Echo(ask))], {}) as outer,
            grpc.aio.insecure_channel(outer) as front,
        ):
            answer = await stub(front).Say(
                pb.EchoRequest(), metadata=(("x-request-id", "trace-me"),), timeout=7
            )

    request_id, left = answer.text.split()
    assert request_id == "trace-me"
    assert 3 < float(left) < 8


async def test_reads_are_repeated_when_the_server_comes_back(
    echo: Any, pb: Any, stub: Any, events: Any, free_port: int
) -> None:
    settings = ServerSettings(f"127.0.0.1:{free_port}", drain_s=0)

    async def come_back() -> None:
        await asyncio.sleep(0.3)
        async with running(settings, [echo.echo_service(echo.Echo())], {}):
            await answered.wait()

    answered = asyncio.Event()
    server = asyncio.create_task(come_back())
    async with channels.open_channel(f"127.0.0.1:{free_port}") as channel:
        assert (await stub(channel).Say(pb.EchoRequest(text="there"))).text == "there"
    answered.set()
    await server
