"""The forms of a canonical file: the old ones as they were, and those with room for more."""

import hashlib
import io
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chat.conversation import Content, Conversation, Message, Preference, Role, ToolCall
from services.dataset.domain import canonical
from services.dataset.domain.canonical import ROW_GROUP_EXAMPLES, CanonicalReader, CanonicalWriter
from services.dataset.domain.layouts import FullConversations
from tests.unit.dataset.formats.conversations import chats, plain_chats, preferences

SYSTEM, USER, ASSISTANT, TOOL = Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL


def written(*examples: Content) -> bytes:
    file = io.BytesIO()
    writer = CanonicalWriter(file)
    for example in examples:
        writer.append(example)
    writer.close()
    return file.getvalue()


def read(content: bytes) -> list[Content]:
    reader = CanonicalReader(content[-CanonicalReader.footer_bytes(content[-8:]) :])
    return [
        example
        for group in reader.groups
        for example in reader.read(group, content[group.offset : group.offset + group.size_bytes])
    ]


def asked(number: int, *, train: bool = True, weight: float = 1.0) -> Conversation:
    answer = Message(ASSISTANT, str(2 * number), train, weight)
    return Conversation.of(Message(USER, f"{number}+{number}?"), answer)


CALLED = Conversation(
    (
        Message(USER, "Warm?", name="Ann", input_start=1),
        Message(ASSISTANT, "", True, 0.5, (ToolCall("weather", "{}", "c1"), ToolCall("a", "{}"))),
        Message(TOOL, "12 °C", tool_call_id="c1"),
        Message(ASSISTANT, "Mild."),
    ),
    '[{"type": "function", "function": {"name": "weather"}}]',
    parallel_tool_calls=False,
)

BRIEF = Message(SYSTEM, "Be brief.")
PLAIN = [Conversation.of(BRIEF, *asked(number, train=number % 3 > 0)) for number in range(5)]
WEIGHTED = Conversation.of(Message(USER, "é"), Message(ASSISTANT, "ß", True, 0.5))

DIGESTS: dict[str, tuple[list[Content], str]] = {
    "conversations": (
        [*PLAIN],
        "34e3b41d7852b6e2db51a57a9b06afc8a82640c06c67ca8f0f72c75616cf67f5",
    ),
    "weighted conversations": (
        [*PLAIN, WEIGHTED, *PLAIN],
        "5e4fe94ea98553143cb1ba2c2909d813e41f3841c496c672c47bae902d660d84",
    ),
    "texts": (
        ["One.", " two\n"],
        "7e89310cd0145e020a674a47c3ada2aa7d83a29d893c179b0d1a9d455d8a6b46",
    ),
}


@pytest.mark.parametrize("name", DIGESTS)
def test_files_of_before_there_were_tools_are_the_same_to_the_byte(name: str):
    """With the release of pyarrow that constraints.txt names."""
    examples, digest = DIGESTS[name]

    assert hashlib.sha256(written(*examples)).hexdigest() == digest


@settings(max_examples=15, deadline=None)
@given(st.lists(chats() | chats(ids=False) | plain_chats(parts=True), min_size=1, max_size=4))
def test_all_that_conversations_hold_is_kept(examples: list[Content]):
    content = written(*examples)

    assert read(content) == examples
    assert written(*examples) == content


@settings(max_examples=15, deadline=None)
@given(st.lists(preferences(), min_size=1, max_size=3))
def test_all_that_preferences_hold_is_kept(examples: list[Content]):
    content = written(*examples)

    assert read(content) == examples
    assert written(*examples) == content


def test_other_parquet_readers_find_tools_and_calls():
    row = pq.read_table(io.BytesIO(written(CALLED))).column("conversation").to_pylist()[0]

    assert row["tools"] == CALLED.tools
    assert row["parallel_tool_calls"] is False
    assert row["messages"][0] == {
        "role": "user",
        "content": "Warm?",
        "weight": 0.0,
        "name": "Ann",
        "tool_calls": [],
        "tool_call_id": "",
        "input_start": 1,
    }
    calls = [{"id": "c1", "name": "weather", "arguments": "{}"}]
    assert row["messages"][1]["tool_calls"] == [*calls, {"id": "", "name": "a", "arguments": "{}"}]
    assert [message["weight"] for message in row["messages"]] == [0.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("count", [1, ROW_GROUP_EXAMPLES + 5])
def test_tools_that_come_late_give_the_file_of_some_that_are_known_of(
    count: int, monkeypatch: pytest.MonkeyPatch
):
    examples = [asked(number, train=number % 3 > 0) for number in range(count)]
    examples += [asked(1, weight=0.5), CALLED, asked(2)]

    content = written(*examples)

    assert read(content) == examples
    monkeypatch.setattr(canonical, "layout_of", lambda _: FullConversations)
    assert written(*examples) == content


FULL: dict[str, Conversation] = {
    "tools": replace(asked(1), tools="[]"),
    "parallel_tool_calls": replace(asked(1), parallel_tool_calls=True),
    "a name": Conversation.of(replace(asked(1)[0], name="Ann"), asked(1)[1]),
    "an input": Conversation.of(replace(asked(1)[0], input_start=2), asked(1)[1]),
    "a call": Conversation.of(replace(asked(1)[0]), CALLED[1]),
    "a tool's answer": Conversation.of(*asked(1), Message(TOOL, "a"), asked(1)[1]),
}


@pytest.mark.parametrize("name", FULL)
def test_whatever_the_old_forms_have_no_column_for_is_kept(name: str):
    content = written(asked(1), FULL[name])

    assert pq.read_schema(io.BytesIO(content)).names == ["conversation"]
    assert read(content) == [asked(1), FULL[name]]


PAIR = Preference(asked(1, train=False)[:1], asked(1).messages[1:], asked(2).messages[1:])


def test_preferences_are_a_column_of_their_own():
    schema = pq.read_schema(io.BytesIO(written(PAIR)))

    assert schema.names == ["preference"]
    assert [field.name for field in schema.field(0).type] == ["prompt", "chosen", "rejected"]


@pytest.mark.parametrize("examples", [(PAIR, asked(1)), (CALLED, PAIR), (PAIR, "a"), ("a", PAIR)])
def test_a_file_of_preferences_holds_nothing_else(examples: tuple[Content, ...]):
    with pytest.raises(TypeError, match="takes no"):
        written(*examples)
