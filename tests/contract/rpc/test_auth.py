"""Who gets in: keys, permissions, projects, and the doors that a server may open."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from anneal.transport import Tls, open_blocking_channel, open_channel
from services.common import faults
from services.common.auth import new_key
from services.common.interceptors import current_call
from services.common.server import ServerSettings, Unsafe, running

READER = {"permissions": ["echoes.read"], "projects": ["default"]}
WRITER = {"permissions": ["echoes.*"], "projects": ["default"]}
ADMIN = {"permissions": ["*"], "projects": ["*"]}


@pytest.fixture
def key(tmp_path: Path) -> Any:
    """Adds a key to the server's key file and returns its text."""

    def add(key_id: str, expires: datetime | None = None, **grants: list[str]) -> str:
        text, snippet = new_key(key_id, **grants)
        with (tmp_path / "keys.toml").open("a") as file:
            file.write(snippet + (f"expires = {expires.isoformat()}\n" if expires else ""))
        return text

    return add


async def name_of_caller(text: str) -> str:
    return current_call().principal.id


async def not_there(text: str) -> str:
    raise faults.NotFound("projects/default/echoes/e")


@pytest.fixture
def guarded(served: Any, echo: Any, tmp_path: Path) -> Any:
    """A server with the key file of this test."""

    @asynccontextmanager
    async def serving(servicer: Any = None) -> Any:
        settings = {"keys_file": tmp_path / "keys.toml"}
        async with served(servicer or echo.Echo(name_of_caller), settings) as stub:
            yield stub

    return serving


def bearer(key: str) -> tuple[tuple[str, str]]:
    return (("authorization", f"Bearer {key}"),)


async def code_of(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_without_keys_every_caller_on_this_machine_is_local(
    served: Any, echo: Any, pb: Any
) -> None:
    async with served(echo.Echo(name_of_caller)) as stub:
        assert (await stub.Say(pb.EchoRequest(name="projects/any/echoes/e"))).text == "local"


async def test_a_good_key_names_the_caller(guarded: Any, key: Any, pb: Any) -> None:
    reader = key("ci-reader", **READER)
    async with guarded() as stub:
        answer = await stub.Say(pb.EchoRequest(name="projects/default"), metadata=bearer(reader))

    assert answer.text == "ci-reader"


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "Bearer"),),
        (("authorization", "Basic anneal_reader_x"),),
        (("authorization", "Bearer anneal_reader_wrong"),),
        (("authorization", "Bearer anneal_stranger_wrong"),),
        (("authorization", "Bearer hello"),),
    ],
)
async def test_a_missing_or_wrong_key_is_unauthenticated(
    guarded: Any, key: Any, pb: Any, metadata: Any
) -> None:
    key("reader", **READER)
    async with guarded() as stub:
        call = stub.Say(pb.EchoRequest(name="projects/default"), metadata=metadata)

        assert await code_of(call) == "UNAUTHENTICATED"


async def test_an_expired_key_is_unauthenticated(guarded: Any, key: Any, pb: Any) -> None:
    now = datetime.now(UTC)
    old = key("old", now - timedelta(seconds=1), **READER)
    fresh = key("fresh", now + timedelta(hours=1), **READER)
    request = pb.EchoRequest(name="projects/default")
    async with guarded() as stub:
        assert await code_of(stub.Say(request, metadata=bearer(old))) == "UNAUTHENTICATED"
        assert await code_of(stub.Say(request, metadata=bearer(fresh))) == "OK"


async def test_permission_and_project_are_denied_before_existence(
    guarded: Any, key: Any, pb: Any, echo: Any
) -> None:
    reader, writer = key("reader", **READER), key("writer", **WRITER)
    stranger = key("stranger", permissions=["jobs.read"], projects=["default"])
    admin = key("admin", **ADMIN)
    mine = pb.EchoRequest(name="projects/default/echoes/e")
    foreign = pb.EchoRequest(name="projects/other/echoes/e")
    async with guarded(echo.Echo(not_there)) as stub:
        codes = [
            await code_of(stub.Say(request, metadata=bearer(caller)))
            for caller in (reader, writer, stranger, admin)
            for request in (mine, foreign)
        ]

    assert codes == [
        *("NOT_FOUND", "PERMISSION_DENIED"),
        *("NOT_FOUND", "PERMISSION_DENIED"),
        *("PERMISSION_DENIED", "PERMISSION_DENIED"),
        *("NOT_FOUND", "NOT_FOUND"),
    ]


async def test_a_key_of_one_project_must_name_it(guarded: Any, key: Any, pb: Any) -> None:
    reader = key("reader", **READER)
    async with guarded() as stub:
        for name in ("", "projects/", "echoes/e", "projects/-/echoes/e", "Projects/default"):
            call = stub.Say(pb.EchoRequest(name=name), metadata=bearer(reader))
            assert await code_of(call) in {"INVALID_ARGUMENT", "PERMISSION_DENIED"}, name


@pytest.mark.parametrize("foreign", [False, True])
async def test_the_first_message_of_an_upload_names_the_tenant(
    guarded: Any, key: Any, pb: Any, echo: Any, foreign: bool
) -> None:
    writer = key("writer", **WRITER)
    servicer = echo.Echo()
    parent = "projects/other" if foreign else "projects/default"

    async def parts() -> Any:
        yield pb.UploadRequest(header=pb.UploadRequest.Header(parent=parent))
        yield pb.UploadRequest(chunk=b"1")
        yield pb.UploadRequest(chunk=b"2")

    async with guarded(servicer) as stub:
        code = await code_of(stub.Upload(parts(), metadata=bearer(writer)))

    assert code == ("PERMISSION_DENIED" if foreign else "OK")
    assert servicer.uploads == ([] if foreign else [["header", "chunk", "chunk"]])


async def test_an_upload_whose_first_message_is_no_header_is_refused(
    guarded: Any, key: Any, pb: Any, echo: Any
) -> None:
    writer = key("writer", **WRITER)
    servicer = echo.Echo()

    async def parts() -> Any:
        yield pb.UploadRequest(chunk=b"1")
        yield pb.UploadRequest(header=pb.UploadRequest.Header(parent="projects/default"))

    async with guarded(servicer) as stub:
        assert await code_of(stub.Upload(parts(), metadata=bearer(writer))) == "INVALID_ARGUMENT"

    assert servicer.uploads == []


async def test_both_kinds_of_stream_out_are_guarded(guarded: Any, key: Any, pb: Any) -> None:
    reader = key("reader", **READER)

    async def first(messages: Any) -> str:
        async for message in messages:
            return str(message.text)
        return ""

    async def requests() -> Any:
        yield pb.EchoRequest(name="projects/default")

    own, foreign = pb.EchoRequest(name="projects/default"), pb.EchoRequest(name="projects/other")
    async with guarded() as stub:
        assert await first(stub.Watch(own, metadata=bearer(reader))) == "reader"
        watching = first(stub.Watch(foreign, metadata=bearer(reader)))
        assert await code_of(watching) == "PERMISSION_DENIED"
        chatting = first(stub.Chat(requests(), metadata=bearer(reader)))
        assert await code_of(chatting) == "PERMISSION_DENIED"


async def test_no_secret_is_ever_logged(guarded: Any, key: Any, pb: Any, events: Any) -> None:
    reader = key("reader", **READER)
    secret = reader.split("_", 2)[2]

    async def careless(text: str) -> str:
        raise ValueError(f"called with {reader}")

    async with guarded() as stub:
        await stub.Say(pb.EchoRequest(name="projects/default"), metadata=bearer(reader))
        await code_of(stub.Say(pb.EchoRequest(), metadata=bearer(reader + "x")))
    async with guarded(stub_of(careless)) as stub:
        await code_of(stub.Say(pb.EchoRequest(name="projects/default"), metadata=bearer(reader)))

    logged = events()
    assert "anneal_reader_[redacted]" in str(logged)
    assert secret not in str(logged)


def stub_of(answer: Any) -> Any:
    from echo_service import Echo

    return Echo(answer)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.1.2.3:0", "example.org:5000"])
async def test_a_server_open_to_a_network_without_tls_and_keys_does_not_start(
    echo: Any, listen: str, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(new_key("k")[1])
    lacking = [
        (ServerSettings(listen), "certificate"),
        (ServerSettings(listen), "keys"),
        (ServerSettings(listen, keys_file=keys), "certificate"),
        (ServerSettings(listen, tls_cert_file=keys, tls_key_file=keys), "keys"),
    ]
    for settings, missing in lacking:
        with pytest.raises(Unsafe, match=missing):
            async with running(settings, [echo.echo_service(echo.Echo())], {}):
                pass


async def test_tls_with_a_key_serves_the_network(
    echo: Any, pb: Any, stub: Any, key: Any, tmp_path: Path, certificate: Any, events: Any
) -> None:
    reader = key("reader", **READER)
    settings = ServerSettings(
        "0.0.0.0:0",
        tls_cert_file=certificate.cert,
        tls_key_file=certificate.key,
        keys_file=tmp_path / "keys.toml",
        drain_s=0,
    )
    tls = Tls(ca_file=certificate.cert)
    request = pb.EchoRequest(name="projects/default")
    async with running(settings, [echo.echo_service(echo.Echo(name_of_caller))], {}) as address:
        local = f"localhost:{address.rpartition(':')[2]}"
        async with open_channel(local, tls=tls, api_key=reader) as channel:
            assert (await stub(channel).Say(request)).text == "reader"
        async with open_channel(local, tls=tls) as channel:
            assert await code_of(stub(channel).Say(request)) == "UNAUTHENTICATED"


async def test_our_channels_send_the_key_with_all_four_kinds(
    echo: Any, pb: Any, stub: Any, key: Any, tmp_path: Path, events: Any
) -> None:
    writer = key("writer", **WRITER)
    settings = ServerSettings(keys_file=tmp_path / "keys.toml", drain_s=0)
    request = pb.EchoRequest(name="projects/default")
    header = pb.UploadRequest(header=pb.UploadRequest.Header(parent="projects/default"))

    async with (
        running(settings, [echo.echo_service(echo.Echo(name_of_caller))], {}) as address,
        open_channel(address, api_key=writer) as channel,
    ):
        client = stub(channel)
        assert (await client.Say(request)).text == "writer"
        assert (await client.Upload(iter([header]))).text == "header"
        assert [m.text async for m in client.Chat(iter([request, request]))] == ["writer"] * 2
        async for message in client.Watch(request):
            assert message.text == "writer"
            break


async def test_the_blocking_channel_sends_the_key_too(
    echo: Any, pb: Any, stub: Any, key: Any, tmp_path: Path, events: Any
) -> None:
    import asyncio

    writer = key("writer", **WRITER)
    settings = ServerSettings(keys_file=tmp_path / "keys.toml", drain_s=0, grace_s=0.1)
    request = pb.EchoRequest(name="projects/default")
    header = pb.UploadRequest(header=pb.UploadRequest.Header(parent="projects/default"))

    def calls(address: str) -> list[str]:
        with open_blocking_channel(address, api_key=writer) as channel:
            client = stub(channel)
            return [
                client.Say(request).text,
                client.Upload(iter([header])).text,
                next(client.Watch(request)).text,
                *(message.text for message in client.Chat(iter([request]))),
            ]

    async with running(settings, [echo.echo_service(echo.Echo(name_of_caller))], {}) as address:
        assert await asyncio.to_thread(calls, address) == ["writer", "header", "writer", "writer"]


def test_a_key_is_not_sent_in_clear_text_over_a_network() -> None:
    with pytest.raises(ValueError, match="TLS"):
        open_blocking_channel("10.0.0.7:5000", api_key="anneal_a_b")
