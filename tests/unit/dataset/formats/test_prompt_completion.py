"""Prompts and completions, as texts and as lists of messages."""

from typing import Any

import pytest

from services.chat.conversation import Conversation, Message, Role
from services.dataset.domain.formats import chat
from services.dataset.domain.formats.catalogue import Shape
from services.dataset.domain.formats.prompt_completion import read, write
from services.dataset.domain.formats.rows import CannotHold
from services.dataset.domain.resources import SourceFormat
from tests.unit.dataset.formats.rows import (
    WEATHER,
    Found,
    call,
    calling,
    flaws_of,
    say,
    told,
)

PAIRS = SourceFormat.PROMPT_COMPLETION
ANSWER = [say("assistant")]

ROWS: list[tuple[dict[str, Any], Found]] = [
    ({}, [("MISSING_FIELD", "/prompt"), ("MISSING_FIELD", "/completion")]),
    ({"prompt": 1, "completion": ""}, [("WRONG_TYPE", "/prompt"), ("EMPTY", "/completion")]),
    ({"prompt": "p", "completion": "c", "id": 7}, [("UNKNOWN_FIELD", "/id")]),
    ({"prompt": "p", "completion": ANSWER}, [("WRONG_TYPE", "/prompt")]),
    ({"prompt": [say()], "completion": "c"}, [("WRONG_TYPE", "/completion")]),
    ({"prompt": [], "completion": ANSWER}, [("EMPTY", "/prompt")]),
    ({"prompt": [say()], "completion": [say("bot")]}, [("UNKNOWN_ROLE", "/completion/0/role")]),
    ({"prompt": [say()], "completion": [say()]}, [("NO_ASSISTANT_TURN", "/completion")]),
    ({"prompt": [say(), *ANSWER], "completion": ANSWER}, [("ROLE_ORDER", "/completion/0/role")]),
    ({"prompt": [say(), say("assistant", weight=1), say()], "completion": ANSWER}, [
        ("UNKNOWN_FIELD", "/prompt/1/weight"),
    ]),
    ({"prompt": [say()] * 256, "completion": ANSWER}, [("TOO_MANY_MESSAGES", "/completion")]),
    ({"prompt": [say()], "completion": ANSWER, "tools": 7}, [("WRONG_TYPE", "/tools")]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "flaws"), ROWS)
def test_each_flaw_of_a_prompt_completion_row_is_named(row: dict[str, Any], flaws: Found):
    assert flaws_of(PAIRS, row) == flaws


def test_a_prompt_and_its_completion_become_two_turns():
    assert read({"prompt": "1+1?", "completion": "2"}) == Conversation.of(
        Message(Role.USER, "1+1?"), Message(Role.ASSISTANT, "2", train=True)
    )


def test_other_columns_are_dropped_if_the_caller_named_the_two():
    row = {"question": "1+1?", "a/b": "2", "id": 7, "tags": ["x"]}
    columns = {"prompt": "question", "completion": "a/b"}

    conversation = Shape(PAIRS, columns).reader()(row)

    assert conversation == read({"prompt": "1+1?", "completion": "2"})
    del row["a/b"]
    assert flaws_of(PAIRS, row, **columns) == [("MISSING_FIELD", "/a~1b")]


def test_of_two_lists_only_the_second_is_learnt():
    prompt = [say("system"), say(), say("assistant", "a"), say()]
    completion = [calling(call()), told(), say("assistant", "b", weight=0.5)]

    conversation = read({"prompt": prompt, "completion": completion, "tools": [WEATHER]})

    assert [message.loss_weight for message in conversation] == [0, 0, 0, 0, 1, 0, 0.5]
    assert conversation.offers_tools


def test_a_pair_of_texts_is_written_as_texts_and_more_as_lists():
    pair = {"prompt": "1+1?", "completion": "2"}
    prompt = [say("system"), say(), say("assistant", "a"), say()]
    lists = {"prompt": prompt, "completion": [calling(call()), told(), say("assistant", "b")]}

    assert write(read(pair)) == pair
    assert write(read(lists)) == lists
    weather = {"type": "function", "function": WEATHER}
    assert write(read({**pair, "tools": [weather]})) == {**pair, "tools": [weather]}


def test_what_is_not_learnt_before_the_first_learnt_answer_is_the_prompt():
    turns = [say(), say("assistant", "a", weight=0), say(), say("assistant", "b")]

    row = write(chat.read({"messages": [*turns, say(), say("assistant", "c", weight=0)]}))

    assert row["prompt"] == [say(), say("assistant", "a"), say()]
    assert row["completion"] == [say("assistant", "b"), say(), say("assistant", "c", weight=0)]


def test_what_has_no_answer_to_learn_is_no_pair():
    with pytest.raises(CannotHold, match="an answer to learn"):
        write(Conversation.of(Message(Role.USER, "a"), Message(Role.ASSISTANT, "b")))
    with pytest.raises(CannotHold, match="a plain text"):
        write("text")
