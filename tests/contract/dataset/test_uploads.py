"""UploadDatasetVersion, as a caller sees it."""

import asyncio
import gzip
import hashlib
import re
from dataclasses import replace
from typing import Any

import grpc
import pytest

from anneal.dataset.v1 import dataset_pb2
from anneal.dataset.v1 import dataset_service_pb2 as pb
from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from anneal.transport import open_channel
from services.common.migrations import check
from services.common.testing.fault_proxy import FaultProxy
from services.dataset.__main__ import MIGRATIONS
from services.dataset.adapters.sql import Row
from tests.contract.dataset.caller import (
    NOTHING,
    PARENT,
    Caller,
    Refusal,
    chat,
    chats,
    document,
    refusal,
    request_id,
)

CHAT, ROWS = dataset_pb2.SOURCE_FORMAT_CHAT, dataset_pb2.SOURCE_FORMAT_PROMPT_COMPLETION
TEXT = dataset_pb2.SOURCE_FORMAT_TEXT
GSM8K = b'{"question": "1+1?", "answer": "1+1 = 2\\n#### 2"}\n' * 3


async def test_migrations_make_what_the_tables_declare(database_url: str):
    await check(database_url, MIGRATIONS, Row.metadata)


async def test_an_upload_becomes_a_version_and_its_dataset(caller: Caller):
    content = chats(3)

    version = await caller.upload(content)

    assert re.fullmatch(rf"{PARENT}/versions/v-{version.digest[:16]}", version.name)
    assert (version.example_count, version.source_format) == (3, CHAT)
    assert version.source_digest == hashlib.sha256(content).hexdigest()
    dataset = await caller.stub.GetDataset(pb.GetDatasetRequest(name=PARENT))
    assert (dataset.latest_version, dataset.version_count) == (version.name, 1)
    assert await caller.kept() == {**NOTHING, "datasets": 1, "dataset_versions": 1, "blobs": 1}
    blob = caller.blobs_dir / "sha256" / version.digest[:2] / version.digest
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == version.digest
    assert blob.stat().st_size == version.size_bytes


async def test_rows_with_named_columns_become_conversations(caller: Caller):
    version = await caller.upload(GSM8K, prompt_field="question", completion_field="answer")

    assert (version.example_count, version.source_format) == (3, ROWS)
    request = pb.PreviewDatasetVersionRequest(name=version.name, page_size=1)
    page = await caller.stub.PreviewDatasetVersion(request)
    turns = [(turn.role, turn.content, turn.train) for turn in page.examples[0].messages]
    assert turns == [(2, "1+1?", False), (3, "1+1 = 2\n#### 2", True)]


async def test_plain_texts_become_a_version(caller: Caller):
    version = await caller.upload(document("One."), document("Two."))
    named = b'{"body": "One.", "id": 1}\n{"body": "Two.", "id": 2}\n'

    assert (version.example_count, version.source_format) == (2, TEXT)
    assert await caller.upload(named, text_field="body") == version
    found = await caller.stub.GetDatasetVersion(pb.GetDatasetVersionRequest(name=version.name))
    assert found == version


async def test_plain_texts_and_conversations_are_not_one_version(caller: Caller):
    refused = await caller.refused(caller.upload(document(), chat(), b'{"text": ""}\n'))

    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "UPLOAD_REJECTED")
    assert [(fault.line, fault.code, fault.pointer) for fault in refused.rejection.faults] == [
        (2, "UNKNOWN_FIELD", "/messages"),
        (2, "MISSING_FIELD", "/text"),
        (3, "EMPTY", "/text"),
    ]
    assert await caller.kept() == NOTHING


async def test_the_same_examples_are_the_same_version_however_they_arrive(caller: Caller):
    content = chats(50)
    first = await caller.upload(content)

    in_bytes = await caller.upload(*[content[at : at + 7] for at in range(0, len(content), 7)])
    with_crlf = await caller.upload(b"\xef\xbb\xbf\n" + content.replace(b"\n", b"\r\n"))

    assert in_bytes == with_crlf == first
    assert (await caller.kept())["dataset_versions"] == 1


async def test_another_dataset_may_have_the_same_examples(caller: Caller):
    first = await caller.upload(chat())
    second = await caller.upload(chat(), parent="projects/other/datasets/support")

    assert first.digest == second.digest
    assert await caller.kept() == {**NOTHING, "datasets": 2, "dataset_versions": 2, "blobs": 1}


async def test_the_version_uploaded_last_is_the_latest(caller: Caller):
    first = await caller.upload(chat())
    second = await caller.upload(chat("2+2?", "4"))
    assert await caller.upload(chat()) == first

    latest = pb.GetDatasetVersionRequest(name=f"{PARENT}/versions/latest")
    assert await caller.stub.GetDatasetVersion(latest) == second


async def test_a_bad_upload_names_its_bad_lines_and_stores_nothing(caller: Caller):
    refused = await caller.refused(
        caller.upload(chat() + b'{"messages": [{"role": "bot", "content": 7}]}\n\xff\n')
    )

    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "UPLOAD_REJECTED")
    faults = [(fault.line, fault.code, fault.pointer) for fault in refused.rejection.faults]
    assert faults == [
        (2, "UNKNOWN_ROLE", "/messages/0/role"),
        (2, "WRONG_TYPE", "/messages/0/content"),
        (3, "NOT_UTF8", ""),
    ]
    assert (refused.rejection.fault_count, refused.rejection.line_count) == (3, 3)
    assert all(fault.message for fault in refused.rejection.faults)
    assert await caller.kept() == NOTHING


async def test_the_first_hundred_faults_of_many_reach_the_caller(caller: Caller):
    refused = await caller.refused(caller.upload(b'{"messages": [{"x": 1}]}\n' * 1000))

    assert [fault.line for fault in refused.rejection.faults][::33] == [1, 12, 23, 34]
    assert len(refused.rejection.faults) == 100
    assert (refused.rejection.fault_count, refused.rejection.line_count) == (3000, 1000)


async def test_a_client_that_takes_small_trailers_only_is_told_in_brief(caller: Caller):
    async with grpc.aio.insecure_channel(caller.address) as channel:
        stock = replace(caller, stub=DatasetServiceStub(channel))
        refused = await caller.refused(stock.upload(b'{"messages": [{"x": 1}]}\n' * 1000))

    assert refused.reason == "UPLOAD_REJECTED"
    assert refused.rejection.fault_count == 3000
    assert refused.rejection.faults[0].line == 1


@pytest.mark.parametrize("chunks", [(), (b"",), (b"\n \r\n",)])
async def test_an_upload_without_examples_is_refused(caller: Caller, chunks: tuple[bytes, ...]):
    refused = await caller.refused(caller.upload(*chunks))

    assert refused == Refusal("INVALID_ARGUMENT", "EMPTY_UPLOAD", ("chunk",))
    assert await caller.kept() == NOTHING


async def test_an_upload_begins_with_its_header(caller: Caller):
    async def only_a_chunk():
        yield pb.UploadDatasetVersionRequest(chunk=chat())

    async def nothing():
        return
        yield

    for requests in (only_a_chunk(), nothing()):
        refused = await caller.refused(caller.stub.UploadDatasetVersion(requests))
        assert refused == Refusal("INVALID_ARGUMENT", "HEADER_MISSING", ("header",))


async def test_an_upload_has_one_header(caller: Caller):
    async def two_headers():
        for _ in range(2):
            yield pb.UploadDatasetVersionRequest(header=pb.UploadHeader(parent=PARENT))

    refused = await caller.refused(caller.stub.UploadDatasetVersion(two_headers()))

    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "CHUNK_MISSING")
    assert await caller.kept() == NOTHING


async def test_everything_wrong_with_a_header_is_said_at_once(caller: Caller):
    refused = await caller.refused(
        caller.upload(chat(), parent="datasets/x", request_id="7", sha256="abc", format=9)
    )

    assert refused.code == "INVALID_ARGUMENT"
    assert set(refused.fields) == {
        "header.parent",
        "header.request_id",
        "header.sha256",
        "header.format",
    }


async def test_prompt_and_completion_must_be_two_fields_of_rows(caller: Caller):
    one = caller.upload(GSM8K, prompt_field="answer", completion_field="answer")
    assert (await caller.refused(one)).fields == ("header",)
    of_chats = caller.upload(chat(), prompt_field="question", format=CHAT)
    assert (await caller.refused(of_chats)).fields == ("header",)


@pytest.mark.parametrize("header", [
    {"prompt_field": "question"},
    {"completion_field": "answer", "format": ROWS},
    {"format": CHAT},
    {"format": ROWS},
])  # fmt: skip
async def test_the_field_of_a_plain_text_is_for_plain_texts(caller: Caller, header: dict[str, Any]):
    refused = await caller.refused(caller.upload(document(), text_field="body", **header))

    assert (refused.code, refused.fields) == ("INVALID_ARGUMENT", ("header",))


async def test_the_callers_sha256_must_be_that_of_the_chunks(caller: Caller):
    content = chats(2)
    digest = hashlib.sha256(content).hexdigest()

    refused = await caller.refused(caller.upload(content[:-1], sha256=digest))

    assert refused == Refusal("INVALID_ARGUMENT", "DIGEST_MISMATCH", ("header.sha256",))
    assert await caller.kept() == NOTHING
    assert (await caller.upload(content, sha256=digest.upper())).source_digest == digest


async def test_a_chunk_may_have_one_mebibyte(caller: Caller):
    content = b" " * (1024 * 1024 - 1) + b"\n"

    refused = await caller.refused(caller.upload(content + b"\n", chat()))

    assert refused == Refusal("INVALID_ARGUMENT", "CHUNK_TOO_LARGE", ("chunk",))
    assert (await caller.upload(content, chat())).example_count == 1


async def test_an_upload_that_is_too_large_is_refused_while_it_is_sent(caller: Caller):
    blank = b" " * (1024 * 1024 - 1) + b"\n"

    refused = await caller.refused(caller.upload(*[blank] * 40, chat()))

    assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "UPLOAD_TOO_LARGE")
    assert await caller.kept() == NOTHING


async def test_the_limit_holds_for_what_a_compressed_upload_holds(caller: Caller):
    blank = gzip.compress(b" " * (1024 * 1024 - 1) + b"\n")

    refused = await caller.refused(caller.upload(*[blank] * 33))

    assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "DECOMPRESSED_TOO_LARGE")
    assert await caller.kept() == NOTHING
    assert (await caller.upload(*[blank] * 3, gzip.compress(chat()))).example_count == 1


async def test_validate_only_answers_alike_and_stores_nothing(caller: Caller):
    checked = await caller.upload(chats(5), validate_only=True, request_id=request_id())
    assert await caller.kept() == NOTHING

    stored = await caller.upload(chats(5))

    assert checked.create_time.ToDatetime() < stored.create_time.ToDatetime()
    checked.ClearField("create_time")
    stored_time = stored.create_time
    stored.ClearField("create_time")
    assert checked == stored
    again = await caller.upload(chats(5), validate_only=True)
    assert again.create_time == stored_time
    bad = await caller.refused(caller.upload(b"x", validate_only=True))
    assert bad.reason == "UPLOAD_REJECTED"


async def test_a_request_id_sent_again_gives_the_first_answer(caller: Caller):
    again = {"request_id": request_id()}
    first = await caller.upload(chat(), **again)
    await caller.upload(chat("2+2?", "4"))

    assert await caller.upload(chat(), **again) == first
    assert (await caller.kept())["requests"] == 1


async def test_a_request_id_is_good_for_one_upload(caller: Caller):
    again = {"request_id": request_id()}
    await caller.upload(chat(), **again)

    other_content = await caller.refused(caller.upload(chat("2+2?", "4"), **again))
    other_header = await caller.refused(caller.upload(chat(), format=CHAT, **again))

    assert other_content == Refusal("INVALID_ARGUMENT", "REQUEST_ID_REUSED", ("request_id",))
    assert other_header == other_content
    assert (await caller.kept())["dataset_versions"] == 1


async def test_a_request_id_of_a_refused_upload_is_still_free(caller: Caller):
    again = {"request_id": request_id()}
    await caller.refused(caller.upload(b"x", **again))

    assert (await caller.upload(chat(), **again)).example_count == 1


async def test_a_request_id_is_answered_with_what_is_there_now(caller: Caller):
    again = {"request_id": request_id()}
    await caller.upload(chat(), **again)
    await caller.stub.DeleteDataset(pb.DeleteDatasetRequest(name=PARENT))

    refused = await caller.refused(caller.upload(chat(), **again))

    assert (refused.code, refused.reason) == ("NOT_FOUND", "DATASET_VERSION_NOT_FOUND")


@pytest.mark.parametrize("again", [{}, {"request_id": request_id()}])
async def test_concurrent_equal_uploads_are_one_version(caller: Caller, again: dict[str, str]):
    versions = await asyncio.gather(*[caller.upload(chats(20), **again) for _ in range(12)])

    assert len({version.SerializeToString(deterministic=True) for version in versions}) == 1
    assert (await caller.kept())["dataset_versions"] == 1
    assert (await caller.kept())["blobs"] == 1


async def test_concurrent_uploads_to_a_dataset_are_all_stored(caller: Caller):
    await asyncio.gather(*[caller.upload(chat(str(number))) for number in range(12)])

    dataset = await caller.stub.GetDataset(pb.GetDatasetRequest(name=PARENT))
    assert dataset.version_count == 12
    latest = pb.GetDatasetVersionRequest(name=f"{PARENT}/versions/latest")
    assert (await caller.stub.GetDatasetVersion(latest)).name == dataset.latest_version
    assert await caller.kept() == {**NOTHING, "datasets": 1, "dataset_versions": 12, "blobs": 12}


async def test_other_calls_are_answered_while_an_upload_is_checked(caller: Caller):
    await caller.upload(chat())
    big = asyncio.create_task(caller.upload(*[chats(4000, f"{part}-") for part in range(40)]))
    slowest_s = 0.0
    loop = asyncio.get_running_loop()

    while not big.done():
        started = loop.time()
        await caller.stub.GetDataset(pb.GetDatasetRequest(name=PARENT))
        slowest_s = max(slowest_s, loop.time() - started)

    assert (await big).example_count == 160_000
    assert slowest_s < 1.0


async def cut_upload(caller: Caller, content: bytes, pause_s: float) -> None:
    """Sends most of an upload, then hangs up."""

    async def requests():
        yield pb.UploadDatasetVersionRequest(header=pb.UploadHeader(parent=PARENT))
        yield pb.UploadDatasetVersionRequest(chunk=content)
        await asyncio.sleep(60)

    call = caller.stub.UploadDatasetVersion(requests())
    await asyncio.sleep(pause_s)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize("content", [chat(), chats(5000), chat()[:-5]])
async def test_an_upload_cut_by_its_caller_leaves_nothing(caller: Caller, content: bytes):
    await asyncio.gather(*[cut_upload(caller, content, part / 400) for part in range(60)])

    await settled(caller)
    assert await caller.kept() == NOTHING


@pytest.mark.parametrize("content", [chat(), chats(5000)])
async def test_an_upload_cut_with_its_connection_leaves_nothing(caller: Caller, content: bytes):
    host, port = caller.address.split(":")
    async with FaultProxy(host, int(port)) as proxy, open_channel(proxy.address) as channel:
        through_proxy = replace(caller, stub=DatasetServiceStub(channel))
        uploads = [asyncio.create_task(endless(through_proxy, content)) for _ in range(20)]
        await asyncio.sleep(0.2)
        proxy.refuse()
        codes = {refused.code() for refused in await asyncio.gather(*uploads)}

    assert codes == {grpc.StatusCode.UNAVAILABLE}
    await settled(caller)
    assert await caller.kept() == NOTHING


async def endless(caller: Caller, content: bytes) -> grpc.aio.AioRpcError:
    """An upload that never ends by itself; how it ended."""

    async def requests():
        yield pb.UploadDatasetVersionRequest(header=pb.UploadHeader(parent=PARENT))
        yield pb.UploadDatasetVersionRequest(chunk=content)
        await asyncio.sleep(60)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.stub.UploadDatasetVersion(requests())
    return caught.value


async def settled(caller: Caller) -> None:
    """Until the server has let go of every upload."""
    for _ in range(100):
        if not list(caller.spool_dir.iterdir()):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("uploads are still being spooled")


async def test_a_caller_that_goes_on_sending_hears_why_it_was_refused(caller: Caller):
    async def requests():
        yield pb.UploadDatasetVersionRequest(header=pb.UploadHeader(parent="nonsense"))
        for _ in range(100):
            yield pb.UploadDatasetVersionRequest(chunk=b"\n" * 1024 * 1024)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.stub.UploadDatasetVersion(requests())

    assert refusal(caught.value).fields == ("header.parent",)
