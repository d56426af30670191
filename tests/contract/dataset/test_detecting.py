"""What the service tells about the beginning of a file, and uploads of what it proposes."""

import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anneal.dataset.v1 import dataset_pb2 as messages
from anneal.dataset.v1 import dataset_service_pb2 as pb
from tests.contract.dataset.caller import NOTHING, Caller, chats, request_id

PROJECT = "projects/default"
CALL = {"name": "area", "arguments": {"side": 3}}
TALK = {
    "conversations": [
        {"from": "human", "value": "How large is it?"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": '{"area": 9}'},
        {"from": "gpt", "value": "9."},
    ],
    "tools": json.dumps([{"name": "area", "parameters": {}}]),
}


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def detect(caller: Caller, head: bytes, *, complete: bool = True) -> messages.DatasetFormat:
    request = pb.DetectDatasetFormatRequest(parent=PROJECT, head=head, complete=complete)
    return await caller.stub.DetectDatasetFormat(request)


async def test_a_table_of_other_names_is_uploaded_as_proposed(caller: Caller):
    rows = lines(*({"id": n, "question": f"{n}+1?", "answer": f"{n + 1}"} for n in range(5)))
    found = await detect(caller, rows)
    assert found.format == messages.SOURCE_FORMAT_PROMPT_COMPLETION
    assert dict(found.columns) == {"prompt": "question", "completion": "answer"}
    assert list(found.dropped_columns) == ["id"]
    assert (found.readable_count, found.row_count, len(found.examples)) == (5, 5, 3)
    assert await caller.kept() == NOTHING
    version = await caller.upload(rows, format=found.format, columns=found.columns)
    assert version.example_count == 5
    assert (await caller.preview(version.name))[4] == (4, "4+1?")


async def test_tools_are_previewed_as_they_were_uploaded(caller: Caller):
    found = await detect(caller, lines(TALK))
    assert (found.format, dict(found.columns)) == (messages.SOURCE_FORMAT_SHAREGPT, {})
    version = await caller.upload(lines(TALK))
    assert version.source_format == messages.SOURCE_FORMAT_SHAREGPT
    page = await caller.stub.PreviewDatasetVersion(
        pb.PreviewDatasetVersionRequest(name=version.name)
    )
    (example,) = page.examples
    assert example == found.examples[0]
    (call,) = example.messages[1].tool_calls
    assert (call.name, json.loads(call.arguments)) == ("area", {"side": 3})
    assert example.messages[1].train
    assert json.loads(example.tools)[0]["function"]["name"] == "area"


async def test_faults_of_the_first_rows_are_told_with_their_lines(caller: Caller):
    found = await detect(caller, chats(2) + b"oops\n" + lines({"messages": []}) + chats(1)[:-9])
    assert [(fault.line, fault.code) for fault in found.faults] == [
        (3, "NOT_JSON"),
        (4, "EMPTY"),
        (5, "NOT_JSON"),
    ]
    cut_off = await detect(caller, chats(2) + chats(1)[:-9], complete=False)
    assert (cut_off.readable_count, len(cut_off.faults)) == (2, 0)


async def test_a_file_in_another_container_is_told_and_uploaded(caller: Caller):
    table = b'question;answer\n1+1?;2\n"2+\n2?";4\n3'
    found = await detect(caller, table, complete=False)
    assert found.container == messages.CONTAINER_CSV
    assert (found.readable_count, len(found.faults)) == (2, 0)
    packed = gzip.compress(table[:-1])
    version = await caller.upload(packed, format=found.format, columns=found.columns)
    assert await caller.preview(version.name) == [(0, "1+1?"), (1, "2+\n2?")]
    array = json.dumps([TALK, TALK]).encode()
    assert (await detect(caller, array)).container == messages.CONTAINER_JSON_ARRAY
    assert (await caller.upload(array)).example_count == 2


async def test_a_parquet_file_is_told_by_the_columns_at_its_end(caller: Caller):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"question": ["1+1?"], "answer": ["2"], "id": [7]}), buffer)
    file = buffer.getvalue()
    request = pb.DetectDatasetFormatRequest(parent=PROJECT, head=file[:64], tail=file[-1024:])
    found = await caller.stub.DetectDatasetFormat(request)
    assert found.container == messages.CONTAINER_PARQUET
    assert dict(found.columns) == {"prompt": "question", "completion": "answer"}
    assert list(found.dropped_columns) == ["id"]
    options = {"container": found.container, "format": found.format, "columns": found.columns}
    assert (await caller.upload(file, **options)).example_count == 1
    packed = gzip.compress(file)
    told = await detect(caller, packed[:-20], complete=False)
    assert (told.container, told.row_count) == (messages.CONTAINER_PARQUET, 0)


async def test_names_help_where_the_bytes_say_nothing(caller: Caller):
    def named(head: bytes, file_name: str) -> Any:
        request = pb.DetectDatasetFormatRequest(
            parent=PROJECT, head=head, complete=True, file_name=file_name
        )
        return caller.stub.DetectDatasetFormat(request)

    table = await named(b"text\nAll parcels are blue.\n", "notes.csv")
    assert (table.container, table.readable_count) == (messages.CONTAINER_CSV, 1)
    rows = await named(chats(2), "train.txt")
    assert (rows.container, rows.readable_count) == (messages.CONTAINER_JSON_LINES, 2)
    unknown = await named(b"%PDF-1.7 " + bytes(range(128, 192)), "noext")
    assert unknown.container == messages.CONTAINER_UNSPECIFIED
    assert [fault.code for fault in unknown.faults] == ["UNKNOWN_CONTAINER"]


async def test_a_bomb_is_looked_at_no_further_than_other_files(caller: Caller):
    found = await detect(caller, gzip.compress(chats(60_000)), complete=False)
    assert found.readable_count == 200


async def test_columns_in_another_order_are_the_same_request(caller: Caller):
    rows = lines({"q": "1+1?", "a": "2", "s": "Be brief."})
    pairs = {"instruction": "q", "output": "a", "system": "s"}
    header = {"format": messages.SOURCE_FORMAT_ALPACA, "request_id": request_id()}
    first = await caller.upload(rows, columns=pairs, **header)
    again = await caller.upload(rows, columns=dict(reversed(pairs.items())), **header)
    assert again == first


async def test_a_document_is_known_by_its_name_and_split(caller: Caller):
    text = b"# Parcels\n\n" + b"All of them are blue. " * 200
    request = pb.DetectDatasetFormatRequest(parent=PROJECT, head=text, file_name="blue.MD")
    found = await caller.stub.DetectDatasetFormat(request)
    assert (found.container, found.document_kind) == (
        messages.CONTAINER_DOCUMENT,
        messages.DOCUMENT_KIND_MD,
    )
    chunks = pb.DocumentChunks(kind=found.document_kind, chunk_characters=500)
    version = await caller.upload(text, container=found.container, document=chunks)
    assert version.source_format == messages.SOURCE_FORMAT_TEXT
    assert version.example_count >= len(text) // 500
    misplaced = caller.upload(text, document=chunks)
    assert (await caller.refused(misplaced)).code == "INVALID_ARGUMENT"


async def test_faults_tell_where_their_line_begins(caller: Caller):
    good = chats(2)
    refused = await caller.refused(caller.upload(good, b"oops\n"))
    assert [one.byte_offset for one in refused.rejection.faults] == [len(good)]


async def test_what_can_not_be_looked_at_is_refused(caller: Caller):
    assert (await caller.refused(detect(caller, b"\n \n"))).reason == "EMPTY_UPLOAD"
    assert (await caller.refused(detect(caller, b" " * 1048577))).reason == "CHUNK_TOO_LARGE"
    request = pb.DetectDatasetFormatRequest(parent="project/default", head=b"{}")
    refused = await caller.refused(caller.stub.DetectDatasetFormat(request))
    assert (refused.code, refused.fields) == ("INVALID_ARGUMENT", ("parent",))


async def test_columns_have_to_be_those_of_the_format(caller: Caller):
    rows = lines({"q": "1+1?", "a": "2"})
    alpaca = messages.SOURCE_FORMAT_ALPACA
    pairs = messages.SOURCE_FORMAT_PROMPT_COMPLETION
    for header in (
        {"columns": {"prompt": "q"}},
        {"columns": {"prompt": "q"}, "format": alpaca},
        {"columns": {"prompt": "q", "completion": "q"}, "format": pairs},
    ):
        assert (await caller.refused(caller.upload(rows, **header))).code == "INVALID_ARGUMENT"
    refused = await caller.refused(
        caller.upload(rows, format=pairs, columns={"prompt": "q", "completion": "b"})
    )
    (fault,) = refused.rejection.faults
    assert (fault.code, fault.pointer) == ("MISSING_FIELD", "/b")
    assert await caller.kept() == NOTHING
