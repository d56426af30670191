"""Preview and Download, as a caller sees them."""

import hashlib
import json

import pytest

from anneal.common.v1 import conversation_pb2
from anneal.dataset.v1 import dataset_service_pb2 as pb
from services.dataset.domain.canonical import ROW_GROUP_EXAMPLES
from tests.contract.dataset.caller import PARENT, Caller, Refusal, chat, chats, document

LATEST = f"{PARENT}/versions/latest"
PARQUET = pb.DownloadDatasetVersionRequest.FORMAT_PARQUET
MANY_TURNS = {
    "messages": [
        {"role": "system", "content": "Be brief.\u2028"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "3", "weight": 0},
        {"role": "user", "content": "Sure? \"\\ \U0001f600"},
        {"role": "assistant", "content": "2"},
    ]
}  # fmt: skip
WEIGHTED = {"messages": [*MANY_TURNS["messages"][:4], {**MANY_TURNS["messages"][4], "weight": 0.1}]}


async def test_a_preview_shows_whole_conversations(caller: Caller):
    await caller.upload(json.dumps(MANY_TURNS).encode())

    page = await caller.stub.PreviewDatasetVersion(pb.PreviewDatasetVersionRequest(name=LATEST))

    assert page.next_page_token == ""
    assert page.examples[0].index == 0
    role = conversation_pb2.Role.Name
    assert [(role(turn.role), turn.train) for turn in page.examples[0].messages] == [
        ("ROLE_SYSTEM", False),
        ("ROLE_USER", False),
        ("ROLE_ASSISTANT", False),
        ("ROLE_USER", False),
        ("ROLE_ASSISTANT", True),
    ]
    contents = [turn.content for turn in page.examples[0].messages]
    assert contents == [turn["content"] for turn in MANY_TURNS["messages"]]


async def test_a_preview_shows_weights_other_than_1(caller: Caller):
    await caller.upload(chat(), json.dumps(WEIGHTED).encode())

    page = await caller.stub.PreviewDatasetVersion(pb.PreviewDatasetVersionRequest(name=LATEST))

    weights = [
        [(turn.train, turn.weight) for turn in example.messages if turn.HasField("weight")]
        for example in page.examples
    ]
    assert weights == [[], [(True, 0.1)]]


async def test_downloaded_weights_give_the_same_version_again(caller: Caller):
    late = json.dumps(WEIGHTED).encode() + b"\n"
    version = await caller.upload(chats(5000), late, chat("3?", "4", weight=2))

    pieces = await caller.download(version.name)

    lines = [json.loads(line) for line in b"".join(pieces).splitlines()]
    assert lines[5000] == WEIGHTED
    assert lines[5001]["messages"][1] == {"role": "assistant", "content": "4", "weight": 2}
    assert [line["messages"][1].get("weight") for line in lines[:5000]] == [None] * 5000
    copy = await caller.upload(*pieces, parent=f"{PARENT}-copy")
    assert copy.digest == version.digest


async def test_a_preview_shows_plain_texts(caller: Caller):
    words = ["One.\u2028", "  two\n", "\U0001f600"]
    await caller.upload(*map(document, words))

    page = await caller.stub.PreviewDatasetVersion(pb.PreviewDatasetVersionRequest(name=LATEST))

    assert [(one.index, one.text, len(one.messages)) for one in page.examples] == [
        (0, "One.\u2028", 0),
        (1, "  two\n", 0),
        (2, "\U0001f600", 0),
    ]


async def test_a_page_of_long_texts_ends_at_a_mebibyte(caller: Caller):
    await caller.upload(*[document(str(number) * 400_000) for number in range(5)])

    request = pb.PreviewDatasetVersionRequest(name=LATEST, page_size=5)
    page = await caller.stub.PreviewDatasetVersion(request)

    assert [one.text[:1] for one in page.examples] == ["0", "1"]
    request.page_token = page.next_page_token
    page = await caller.stub.PreviewDatasetVersion(request)
    assert [one.text[:1] for one in page.examples] == ["2", "3"]


async def test_downloaded_texts_give_the_same_version_again(caller: Caller):
    version = await caller.upload(*[document(f"{number}\u2028 é") for number in range(5000)])

    pieces = await caller.download(version.name)

    lines = b"".join(pieces).split(b"\n")
    assert json.loads(lines[0]) == {"text": "0\u2028 é"}
    copy = await caller.upload(*pieces, parent=f"{PARENT}-copy")
    assert copy.digest == version.digest


async def test_a_preview_goes_through_all_row_groups(caller: Caller):
    count = 2 * ROW_GROUP_EXAMPLES + 10
    version = await caller.upload(chats(count))

    examples = await caller.preview(version.name, page_size=200)

    assert examples == [(number, f"{number}?") for number in range(count)]


async def test_a_preview_has_20_examples_by_default_and_200_at_most(caller: Caller):
    await caller.upload(chats(300))

    for asked, given in ((0, 20), (7, 7), (200, 200), (1000, 200)):
        request = pb.PreviewDatasetVersionRequest(name=LATEST, page_size=asked)
        assert len((await caller.stub.PreviewDatasetVersion(request)).examples) == given


async def test_a_page_of_long_examples_ends_at_a_mebibyte(caller: Caller):
    long = [chat("x" * 400_000, str(number)) for number in range(5)] + [chat("y" * 1_048_000)]
    await caller.upload(*long)

    request = pb.PreviewDatasetVersionRequest(name=LATEST)
    first = await caller.stub.PreviewDatasetVersion(request)

    assert len(first.examples) == 2
    assert first.ByteSize() < 1024 * 1024
    examples = await caller.preview(LATEST)
    assert [index for index, _ in examples] == [0, 1, 2, 3, 4, 5]


async def test_a_preview_of_the_latest_stays_with_the_version_it_began_with(caller: Caller):
    await caller.upload(chats(30, "old-"))
    request = pb.PreviewDatasetVersionRequest(name=LATEST)
    first = await caller.stub.PreviewDatasetVersion(request)

    await caller.upload(chats(30, "new-"))
    request.page_token = first.next_page_token
    second = await caller.stub.PreviewDatasetVersion(request)

    shown = [one.messages[0].content for one in (*first.examples, *second.examples)]
    assert shown == [f"old-{number}?" for number in range(30)]


async def test_a_token_of_another_version_is_refused(caller: Caller):
    old = await caller.upload(chats(30))
    new = await caller.upload(chats(31))
    request = pb.PreviewDatasetVersionRequest(name=old.name)
    token = (await caller.stub.PreviewDatasetVersion(request)).next_page_token

    request = pb.PreviewDatasetVersionRequest(name=new.name, page_token=token)
    refused = await caller.refused(caller.stub.PreviewDatasetVersion(request))

    assert refused == Refusal("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", ("page_token",))


async def test_downloaded_lines_give_the_same_version_again(caller: Caller):
    version = await caller.upload(json.dumps(MANY_TURNS).encode() + b"\n", chats(5000))

    pieces = await caller.download(version.name)

    lines = b"".join(pieces).splitlines()
    assert json.loads(lines[0]) == MANY_TURNS
    assert len(lines) == 5001
    copy = await caller.upload(*pieces, parent=f"{PARENT}-copy")
    assert copy.digest == version.digest


async def test_the_downloaded_parquet_file_is_the_stored_one(caller: Caller):
    noise = [chat(hashlib.sha256(str(number).encode()).hexdigest() * 200) for number in range(200)]
    version = await caller.upload(*noise)

    pieces = await caller.download(LATEST, PARQUET)

    content = b"".join(pieces)
    assert hashlib.sha256(content).hexdigest() == version.digest
    assert len(content) == version.size_bytes


@pytest.mark.parametrize("format", [0, PARQUET])
async def test_downloads_come_in_chunks_of_a_mebibyte_at_most(caller: Caller, format: int):
    rows = [chat(hashlib.sha512(str(number).encode()).hexdigest()) for number in range(30_000)]
    await caller.upload(*[b"".join(rows[at : at + 3000]) for at in range(0, 30_000, 3000)])

    pieces = await caller.download(LATEST, format)

    assert len(pieces) > 2
    assert max(map(len, pieces)) <= 1024 * 1024


async def test_a_damaged_file_is_told_from_a_missing_version(caller: Caller):
    version = await caller.upload(chats(1000))
    blob = caller.blobs_dir / "sha256" / version.digest[:2] / version.digest
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 0xFF
    blob.write_bytes(content)

    request = pb.PreviewDatasetVersionRequest(name=version.name)
    previewed = await caller.refused(caller.stub.PreviewDatasetVersion(request))
    downloaded = await caller.refused(caller.download(version.name, PARQUET))

    assert previewed == Refusal("DATA_LOSS", "VERSION_DAMAGED")
    assert downloaded == Refusal("DATA_LOSS", "BLOB_CORRUPT")
