"""What a line must hold to be a labeled example."""

from typing import Any

import pytest

from services.chat.conversation import Message, Role
from services.dataset.domain.examples import (
    TextFields,
    read_chat,
    read_prompt_completion,
    read_text,
)
from services.dataset.domain.flaws import BadLine
from services.dataset.domain.resources import SourceFormat

SYSTEM, USER, ASSISTANT = Role.SYSTEM, Role.USER, Role.ASSISTANT


def say(role: Any = "user", content: Any = "text", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def answered(*before: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*before, say("user"), say("assistant")]}


def weighted(weight: Any) -> dict[str, Any]:
    return {"messages": [say(), say("assistant", weight=weight)]}


def flaws_of(read: Any) -> list[tuple[str, str]]:
    with pytest.raises(BadLine) as caught:
        read()
    assert all(0 < len(flaw.message) <= 80 for flaw in caught.value.flaws)
    return [(str(flaw.code), flaw.pointer) for flaw in caught.value.flaws]


CHAT: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({}, [("MISSING_FIELD", "/messages")]),
    ({"message": []}, [("UNKNOWN_FIELD", "/message"), ("MISSING_FIELD", "/messages")]),
    ({**answered(), "tools": [], "a/b~c": 1}, [
        ("UNKNOWN_FIELD", "/tools"),
        ("UNKNOWN_FIELD", "/a~1b~0c"),
    ]),
    ({"messages": None}, [("WRONG_TYPE", "/messages")]),
    ({"messages": {"role": "user"}}, [("WRONG_TYPE", "/messages")]),
    ({"messages": []}, [("EMPTY", "/messages")]),
    ({"messages": [say()] * 257}, [("TOO_MANY_MESSAGES", "/messages")]),
    (answered("hello"), [("NOT_AN_OBJECT", "/messages/0")]),
    (answered({}), [
        ("MISSING_FIELD", "/messages/0/role"),
        ("MISSING_FIELD", "/messages/0/content"),
    ]),
    (answered(say(name="Ann")), [("UNKNOWN_FIELD", "/messages/0/name")]),
    (answered(say(role=7)), [("WRONG_TYPE", "/messages/0/role")]),
    (answered(say(role="")), [("EMPTY", "/messages/0/role")]),
    (answered(say(role="tool")), [("UNKNOWN_ROLE", "/messages/0/role")]),
    (answered(say(role="User")), [("UNKNOWN_ROLE", "/messages/0/role")]),
    (answered(say(content=None)), [("WRONG_TYPE", "/messages/0/content")]),
    (answered(say(content=[{"text": "a"}])), [("WRONG_TYPE", "/messages/0/content")]),
    (answered(say(content="")), [("EMPTY", "/messages/0/content")]),
    (answered(say(weight=1)), [("UNKNOWN_FIELD", "/messages/0/weight")]),
    (answered(say(weight=0.5)), [("UNKNOWN_FIELD", "/messages/0/weight")]),
    (weighted(True), [("WRONG_TYPE", "/messages/1/weight")]),
    (weighted("0.5"), [("WRONG_TYPE", "/messages/1/weight")]),
    (weighted(None), [("WRONG_TYPE", "/messages/1/weight")]),
    (weighted([1]), [("WRONG_TYPE", "/messages/1/weight")]),
    (weighted(-1), [("OUT_OF_RANGE", "/messages/1/weight")]),
    (weighted(-0.5), [("OUT_OF_RANGE", "/messages/1/weight")]),
    (weighted(0.0009), [("OUT_OF_RANGE", "/messages/1/weight")]),
    (weighted(5e-324), [("OUT_OF_RANGE", "/messages/1/weight")]),
    (weighted(1000.1), [("OUT_OF_RANGE", "/messages/1/weight")]),
    (weighted(10**30), [("OUT_OF_RANGE", "/messages/1/weight")]),
    (answered(say("system"), say("system")), [("ROLE_ORDER", "/messages/1/role")]),
    (answered(say("user"), say("system")), [("ROLE_ORDER", "/messages/1/role")]),
    (answered(say("assistant")), [("ROLE_ORDER", "/messages/0/role")]),
    (answered(say("system"), say("assistant")), [("ROLE_ORDER", "/messages/1/role")]),
    ({"messages": [say(), *[say("assistant")] * 2]}, [("ROLE_ORDER", "/messages/2/role")]),
    ({"messages": [say(), say("assistant"), say()]}, [("ROLE_ORDER", "/messages/2/role")]),
    ({"messages": [say("system"), say()]}, [("NO_ASSISTANT_TURN", "/messages")]),
    (weighted(0), [("NO_ASSISTANT_TURN", "/messages")]),
    (weighted(-0.0), [("NO_ASSISTANT_TURN", "/messages")]),
    ({"messages": [say("bot", "", x=1), say(content=1), 3]}, [
        ("UNKNOWN_FIELD", "/messages/0/x"),
        ("UNKNOWN_ROLE", "/messages/0/role"),
        ("EMPTY", "/messages/0/content"),
        ("WRONG_TYPE", "/messages/1/content"),
        ("NOT_AN_OBJECT", "/messages/2"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "flaws"), CHAT)
def test_each_flaw_of_a_chat_line_is_named_with_its_place(
    row: dict[str, Any], flaws: list[tuple[str, str]]
):
    assert flaws_of(lambda: read_chat(row)) == flaws


def test_every_assistant_turn_is_learnt_but_those_of_weight_0():
    turns = [
        say("system"),
        say("user"),
        say("assistant", "a"),
        say("user"),
        say("assistant", "b", weight=0),
        say("user"),
        say("user"),
        say("assistant", "c", weight=1),
    ]

    conversation = read_chat({"messages": turns})

    assert [message.role for message in conversation][:3] == [SYSTEM, USER, ASSISTANT]
    assert [message.content for message in conversation if message.train] == ["a", "c"]


@pytest.mark.parametrize("weight", [0.001, 0.5, 1, 1.0, 2, 1000])
def test_an_assistant_turn_counts_as_much_as_its_weight(weight: float):
    answer = read_chat(weighted(weight))[1]

    assert answer == Message(ASSISTANT, "text", train=True, weight=float(weight))
    assert answer.loss_weight == weight


def test_a_conversation_may_have_256_messages():
    assert len(read_chat({"messages": [say()] * 255 + [say("assistant")]})) == 256


def test_content_is_kept_to_the_letter():
    text = "  \u0000\ufeff\r\n\U0001f600 "
    row = {"messages": [say(content=text), say("assistant", text)]}

    assert [message.content for message in read_chat(row)] == [text, text]


ROWS: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({}, [("MISSING_FIELD", "/prompt"), ("MISSING_FIELD", "/completion")]),
    ({"prompt": 1, "completion": ""}, [("WRONG_TYPE", "/prompt"), ("EMPTY", "/completion")]),
    ({"prompt": "p", "completion": "c", "id": 7}, [("UNKNOWN_FIELD", "/id")]),
]


@pytest.mark.parametrize(("row", "flaws"), ROWS)
def test_each_flaw_of_a_prompt_completion_line_is_named(
    row: dict[str, Any], flaws: list[tuple[str, str]]
):
    assert flaws_of(lambda: read_prompt_completion(row, TextFields())) == flaws


def test_a_prompt_and_its_completion_become_two_turns():
    row = {"prompt": "1+1?", "completion": "2"}

    assert read_prompt_completion(row, TextFields()) == (
        Message(USER, "1+1?"),
        Message(ASSISTANT, "2", train=True),
    )


def test_other_columns_are_dropped_if_the_caller_named_the_two():
    row = {"question": "1+1?", "a/b": "2", "id": 7, "tags": ["x"]}
    fields = TextFields("question", "a/b", named=SourceFormat.PROMPT_COMPLETION)

    assert [turn.content for turn in read_prompt_completion(row, fields)] == ["1+1?", "2"]
    del row["a/b"]
    assert flaws_of(lambda: read_prompt_completion(row, fields)) == [("MISSING_FIELD", "/a~1b")]


TEXTS: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({}, [("MISSING_FIELD", "/text")]),
    ({"text": ""}, [("EMPTY", "/text")]),
    ({"text": None}, [("WRONG_TYPE", "/text")]),
    ({"text": ["a"]}, [("WRONG_TYPE", "/text")]),
    ({"text": "a", "id": 7}, [("UNKNOWN_FIELD", "/id")]),
    ({"messages": [], "text": 1}, [("UNKNOWN_FIELD", "/messages"), ("WRONG_TYPE", "/text")]),
]


@pytest.mark.parametrize(("row", "flaws"), TEXTS)
def test_each_flaw_of_a_plain_text_line_is_named(row: dict[str, Any], flaws: list[tuple[str, str]]):
    assert flaws_of(lambda: read_text(row, TextFields())) == flaws


def test_a_plain_text_is_kept_to_the_letter():
    text = "  \u0000\ufeff\r\n\U0001f600 "

    assert read_text({"text": text}, TextFields()) == text


def test_other_columns_are_dropped_if_the_caller_named_the_text():
    fields = TextFields(text="body", named=SourceFormat.TEXT)

    assert read_text({"body": "a", "id": 7}, fields) == "a"
    assert flaws_of(lambda: read_text({"text": "a"}, fields)) == [("MISSING_FIELD", "/body")]
