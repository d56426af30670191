"""Versions of what not every format holds: previewed, downloaded, and uploaded again."""

import json
from typing import Any

import pytest

from anneal.dataset.v1 import dataset_pb2
from anneal.dataset.v1 import dataset_service_pb2 as pb
from tests.contract.dataset.caller import PARENT, Caller

CALL = {"id": "c1", "type": "function", "function": {"name": "area", "arguments": '{"side": 3}'}}
TOOLS = [{"type": "function", "function": {"name": "area"}}]
QUESTION = {"role": "user", "content": "How large?", "name": "Ann"}
ANSWERED = [
    QUESTION,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "9", "tool_call_id": "c1"},
    {"role": "assistant", "content": "9.", "weight": 0.5},
]
WITH_TOOLS = {"messages": ANSWERED, "tools": TOOLS, "parallel_tool_calls": False}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("9.", "8."))
PREFERENCE = {
    "input": {"messages": [QUESTION], "tools": TOOLS},
    "preferred_output": [GOOD],
    "non_preferred_output": [BAD],
}


@pytest.mark.parametrize("row", [WITH_TOOLS, PREFERENCE], ids=["tools", "preference"])
async def test_downloaded_rows_give_the_same_version_again(caller: Caller, row: Any):
    version = await caller.upload(json.dumps(row).encode())

    pieces = await caller.download(version.name)

    copy = await caller.upload(*pieces, parent=f"{PARENT}-copy")
    assert (copy.digest, copy.source_format) == (version.digest, version.source_format)


async def test_a_preview_shows_both_answers_of_a_preference(caller: Caller):
    version = await caller.upload(json.dumps(PREFERENCE).encode())

    request = pb.PreviewDatasetVersionRequest(name=version.name)
    (example,) = (await caller.stub.PreviewDatasetVersion(request)).examples

    assert version.source_format == dataset_pb2.SOURCE_FORMAT_PREFERENCE
    assert [turn.content for turn in example.messages] == ["How large?"]
    assert [turn.content for turn in (*example.chosen, *example.rejected)] == ["9.", "8."]
    assert json.loads(example.tools) == TOOLS


async def test_chatml_is_read_as_turns_unless_it_is_to_be_plain_text(caller: Caller):
    text = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
    row = json.dumps({"text": text}).encode()

    turns = await caller.upload(row)
    plain = await caller.upload(row, format=dataset_pb2.SOURCE_FORMAT_TEXT)

    assert turns.source_format == dataset_pb2.SOURCE_FORMAT_CHATML
    assert await caller.preview(turns.name) == [(0, "1+1?")]
    assert plain.digest != turns.digest
    assert b"".join(await caller.download(plain.name)) == line(text)


def line(text: str) -> bytes:
    return json.dumps({"text": text}, separators=(",", ":")).encode() + b"\n"
