"""How a row tells its format, and how columns are named."""

from typing import Any

import pytest

from services.dataset.domain.formats.catalogue import FORMATS, Shape, format_of
from services.dataset.domain.resources import SourceFormat
from tests.unit.dataset.formats.rows import answered, flaws_of, say

ROWS: list[tuple[dict[str, Any], str]] = [
    (answered(), "chat"),
    ({"messages": [], "text": "a"}, "chat"),
    ({"conversations": []}, "sharegpt"),
    ({"instruction": "a", "input": "b", "output": "c"}, "alpaca"),
    ({"instruction": "a"}, "alpaca"),
    ({"output": "a", "input": "b"}, "alpaca"),
    ({"prompt": "a", "completion": "b"}, "prompt_completion"),
    ({"prompt": "a"}, "prompt_completion"),
    ({"text": "a"}, "text"),
    ({"text": 7}, "text"),
    ({"text": "<|im_start|>user\na<|im_end|>"}, "chatml"),
    ({"text": "\n<|im_start|>"}, "chatml"),
    ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "preference"),
    ({"preferred_completion": []}, "preference"),
    ({"conversations": [], "chosen": {}, "rejected": {}}, "preference"),
    ({"body": "a"}, "chat"),
    ({}, "chat"),
]


@pytest.mark.parametrize(("row", "name"), ROWS)
def test_a_row_tells_its_format_by_its_fields(row: dict[str, Any], name: str):
    assert format_of(row).value == name


def test_every_format_is_there():
    assert set(FORMATS) == set(SourceFormat)


def test_flaws_are_told_where_the_callers_row_has_them():
    chats = {"talk": [say("bot"), say("assistant")], "functions": 7, "id": 1}
    columns = {"messages": "talk", "tools": "functions"}

    assert flaws_of(SourceFormat.CHAT, chats, **columns) == [
        ("UNKNOWN_ROLE", "/talk/0/role"),
        ("WRONG_TYPE", "/functions"),
    ]
    alpaca = {"question": "", "output": 7}
    assert flaws_of(SourceFormat.ALPACA, alpaca, instruction="question") == [
        ("EMPTY", "/question"),
        ("WRONG_TYPE", "/output"),
    ]


def test_fields_that_are_not_named_stand_under_their_own_names():
    shape = Shape(SourceFormat.ALPACA, {"instruction": "question"})

    conversation = shape.reader()({"question": "a", "input": "b", "output": "c", "id": 7})

    assert not isinstance(conversation, str)
    assert [turn.content for turn in conversation] == ["a\nb", "c"]
