"""What the engine reads is what the dataset service has written, in each of its forms."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.chat.conversation import Content, Conversation, Message, Preference, Role
from services.dataset.domain.canonical import CanonicalWriter
from services.trainer.engine.dataset_file import conversations, holds_texts, texts
from services.trainer.engine.errors import InvalidData
from tests.unit.dataset.formats.conversations import chats, plain_chats

QUESTION = Message(Role.USER, "1+1?")
ANSWER = Message(Role.ASSISTANT, "2", train=True)


def written(directory: Path, examples: Sequence[Content]) -> Path:
    path = directory / "examples.parquet"
    with path.open("w+b") as file:
        writer = CanonicalWriter(file)
        for example in examples:
            writer.append(example)
        writer.close()
    return path


def trained_on(conversation: Conversation) -> Conversation:
    """But for what no chat template is told."""
    turns = [Message(**(_fields(turn) | {"input_start": 0})) for turn in conversation]
    return Conversation(tuple(turns), conversation.tools)


def _fields(message: Message) -> dict[str, object]:
    return {name: getattr(message, name) for name in Message.__slots__}


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(chats() | plain_chats(parts=True), min_size=1, max_size=4))
def test_conversations_are_read_with_their_tools(tmp_path: Path, examples: list[Conversation]):
    path = written(tmp_path, examples)

    assert not holds_texts(path)
    assert list(conversations(path)) == [trained_on(example) for example in examples]


def test_plain_texts_are_read_as_such(tmp_path: Path):
    path = written(tmp_path, ["One.", "Two."])

    assert holds_texts(path)
    assert list(texts(path)) == ["One.", "Two."]


def test_preferences_are_named_as_what_they_are(tmp_path: Path):
    other = Message(Role.ASSISTANT, "3", train=True)
    path = written(tmp_path, [Preference(Conversation.of(QUESTION), (ANSWER,), (other,))])

    assert not holds_texts(path)
    with pytest.raises(InvalidData, match="holds preferences between answers"):
        conversations(path)
