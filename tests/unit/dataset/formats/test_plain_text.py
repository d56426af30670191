"""What a plain-text row must hold."""

from typing import Any

import pytest

from services.chat.conversation import Conversation, Message, Role
from services.dataset.domain.formats.catalogue import Shape
from services.dataset.domain.formats.plain_text import read, write
from services.dataset.domain.formats.rows import CannotHold
from services.dataset.domain.resources import SourceFormat
from tests.unit.dataset.formats.rows import LETTERS, Found, flaws_of

TEXTS: list[tuple[dict[str, Any], Found]] = [
    ({}, [("MISSING_FIELD", "/text")]),
    ({"text": ""}, [("EMPTY", "/text")]),
    ({"text": None}, [("WRONG_TYPE", "/text")]),
    ({"text": ["a"]}, [("WRONG_TYPE", "/text")]),
    ({"text": "a", "id": 7}, [("UNKNOWN_FIELD", "/id")]),
    ({"messages": [], "text": 1}, [("UNKNOWN_FIELD", "/messages"), ("WRONG_TYPE", "/text")]),
]


@pytest.mark.parametrize(("row", "flaws"), TEXTS)
def test_each_flaw_of_a_plain_text_row_is_named(row: dict[str, Any], flaws: Found):
    assert flaws_of(SourceFormat.TEXT, row) == flaws


def test_a_plain_text_is_kept_to_the_letter():
    assert read({"text": LETTERS}) == LETTERS
    assert write(LETTERS) == {"text": LETTERS}


def test_other_columns_are_dropped_if_the_caller_named_the_text():
    row = {"body": "a", "id": 7}

    assert Shape(SourceFormat.TEXT, {"text": "body"}).reader()(row) == "a"
    assert flaws_of(SourceFormat.TEXT, {"text": "a"}, text="body") == [("MISSING_FIELD", "/body")]


def test_a_conversation_is_no_plain_text():
    with pytest.raises(CannotHold, match="turns of a conversation"):
        write(Conversation.of(Message(Role.USER, "a")))
