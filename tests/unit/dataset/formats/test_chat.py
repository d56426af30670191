"""What an OpenAI chat row must hold to be an example."""

from typing import Any

import pytest

from services.chat.conversation import Message, Preference, Role
from services.dataset.domain.formats import sharegpt
from services.dataset.domain.formats.chat import read, write
from services.dataset.domain.formats.rows import CannotHold
from services.dataset.domain.resources import SourceFormat
from tests.unit.dataset.formats.rows import (
    LETTERS,
    Found,
    answered,
    call,
    calling,
    flaws_of,
    say,
    told,
)

SYSTEM, USER, ASSISTANT = Role.SYSTEM, Role.USER, Role.ASSISTANT


def weighted(weight: Any) -> dict[str, Any]:
    return {"messages": [say(), say("assistant", weight=weight)]}


def marked(role: str = "assistant", **more: Any) -> dict[str, Any]:
    return (
        answered(say(), say(role, **more)) if role == "assistant" else answered(say(role, **more))
    )


CHAT: list[tuple[dict[str, Any], Found]] = [
    ({}, [("MISSING_FIELD", "/messages")]),
    ({"message": []}, [("UNKNOWN_FIELD", "/message"), ("MISSING_FIELD", "/messages")]),
    ({**answered(), "tool": [], "a/b~c": 1}, [
        ("UNKNOWN_FIELD", "/tool"),
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
    (answered(say(age=7)), [("UNKNOWN_FIELD", "/messages/0/age")]),
    (answered(say(name=7)), [("WRONG_TYPE", "/messages/0/name")]),
    (answered(say(role=7)), [("WRONG_TYPE", "/messages/0/role")]),
    (answered(say(role="")), [("EMPTY", "/messages/0/role")]),
    (answered(say(role="function")), [("UNKNOWN_ROLE", "/messages/0/role")]),
    (answered(say(role="User")), [("UNKNOWN_ROLE", "/messages/0/role")]),
    (answered(say(content=None)), [("WRONG_TYPE", "/messages/0/content")]),
    (answered(say(content="")), [("EMPTY", "/messages/0/content")]),
    (answered(say(content=[])), [("EMPTY", "/messages/0/content")]),
    (answered(say(content=["a"])), [("NOT_AN_OBJECT", "/messages/0/content/0")]),
    (answered(say(content=[{"text": "a"}])), [("OUT_OF_RANGE", "/messages/0/content/0/type")]),
    (answered(say(content=[{"type": "text"}])), [("MISSING_FIELD", "/messages/0/content/0/text")]),
    (answered(say(content=[{"type": "image_url", "image_url": {}}])), [
        ("OUT_OF_RANGE", "/messages/0/content/0/type"),
    ]),
    (answered(say(weight=1)), [("UNKNOWN_FIELD", "/messages/0/weight")]),
    (answered(say(weight=0.5)), [("UNKNOWN_FIELD", "/messages/0/weight")]),
    (answered(say(train=True)), [("OUT_OF_RANGE", "/messages/0/train")]),
    (weighted(True), [("WRONG_TYPE", "/messages/1/weight")]),
    (weighted("0.5"), [("WRONG_TYPE", "/messages/1/weight")]),
    (answered(say(name="n" * 257)), [("OUT_OF_RANGE", "/messages/0/name")]),
    (weighted([1]), [("WRONG_TYPE", "/messages/1/weight")]),
    (weighted(-1), [("OUT_OF_RANGE", "/messages/1/weight")]),
    (weighted(-0.5), [("OUT_OF_RANGE", "/messages/1/weight")]),
    (weighted(0.0009), [("OUT_OF_RANGE", "/messages/1/weight")]),
    (weighted(5e-324), [("OUT_OF_RANGE", "/messages/1/weight")]),
    (weighted(1000.1), [("OUT_OF_RANGE", "/messages/1/weight")]),
    (weighted(10**30), [("OUT_OF_RANGE", "/messages/1/weight")]),
    (marked(train=1), [("WRONG_TYPE", "/messages/1/train")]),
    (marked(train=True, weight=1), [("UNKNOWN_FIELD", "/messages/1/train")]),
    (answered(say("system"), say("system")), [("ROLE_ORDER", "/messages/1/role")]),
    (answered(say("developer"), say("system")), [("ROLE_ORDER", "/messages/1/role")]),
    (answered(say("user"), say("system")), [("ROLE_ORDER", "/messages/1/role")]),
    (answered(say("assistant")), [("ROLE_ORDER", "/messages/0/role")]),
    (answered(say("system"), say("assistant")), [("ROLE_ORDER", "/messages/1/role")]),
    ({"messages": [say(), *[say("assistant")] * 2]}, [("ROLE_ORDER", "/messages/2/role")]),
    ({"messages": [say(), say("assistant"), say()]}, [("ROLE_ORDER", "/messages/2/role")]),
    ({"messages": [say("system"), say()]}, [("NO_ASSISTANT_TURN", "/messages")]),
    (weighted(0), [("NO_ASSISTANT_TURN", "/messages")]),
    (weighted(-0.0), [("NO_ASSISTANT_TURN", "/messages")]),
    ({"messages": [say(), say("assistant", train=False)]}, [("NO_ASSISTANT_TURN", "/messages")]),
    ({"messages": [say("bot", "", x=1), say(content=1), 3]}, [
        ("UNKNOWN_FIELD", "/messages/0/x"),
        ("UNKNOWN_ROLE", "/messages/0/role"),
        ("EMPTY", "/messages/0/content"),
        ("WRONG_TYPE", "/messages/1/content"),
        ("NOT_AN_OBJECT", "/messages/2"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "flaws"), CHAT)
def test_each_flaw_of_a_chat_row_is_named_with_its_place(row: dict[str, Any], flaws: Found):
    assert flaws_of(SourceFormat.CHAT, row) == flaws


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

    conversation = read({"messages": turns})

    assert [message.role for message in conversation][:3] == [SYSTEM, USER, ASSISTANT]
    assert [message.content for message in conversation if message.train] == ["a", "c"]


def test_train_says_as_well_which_turns_are_learnt():
    turns = [say(train=False), say("assistant", "a", train=False)]
    turns += [say(), say("assistant", "b", train=True)]

    assert [message.train for message in read({"messages": turns})] == [False, False, False, True]


@pytest.mark.parametrize("weight", [0.001, 0.5, 1, 1.0, 2, 1000])
def test_an_assistant_turn_counts_as_much_as_its_weight(weight: float):
    answer = read(weighted(weight))[1]

    assert answer == Message(ASSISTANT, "text", train=True, weight=float(weight))
    assert answer.loss_weight == weight


def test_a_conversation_may_have_256_messages():
    assert len(read({"messages": [say()] * 255 + [say("assistant")]})) == 256


def test_content_is_kept_to_the_letter():
    row = {"messages": [say(content=LETTERS), say("assistant", LETTERS)]}

    assert [message.content for message in read(row)] == [LETTERS, LETTERS]


def test_parts_of_text_are_one_text():
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]

    assert read(answered(say(content=parts)))[0].content == "a b"


def test_a_developer_is_the_system():
    assert read(answered(say("developer", "Be brief.")))[0] == Message(SYSTEM, "Be brief.")


def test_names_tell_speakers_apart():
    conversation = read(answered(say(name="Ann"), say(name=None)))

    assert [message.name for message in conversation] == ["Ann", "", "", ""]


def test_calls_without_ids_get_some_that_nobody_has():
    def turn(speaker: str, value: str) -> dict[str, str]:
        return {"from": speaker, "value": value}

    calls = '[{"name": "a"}, {"name": "b", "arguments": {"x": 1}}]'
    turns = [turn("human", "?"), turn("function_call", calls), turn("observation", "1")]
    turns += [turn("observation", "2"), turn("gpt", "3")]
    conversation = sharegpt.read({"conversations": turns})

    messages: Any = write(conversation)["messages"]

    assert [one["id"] for one in messages[1]["tool_calls"]] == ["call_0", "call_1"]
    assert [one["tool_call_id"] for one in messages[2:4]] == ["call_0", "call_1"]
    assert sharegpt.write(read({"messages": messages})) == sharegpt.write(conversation)


def test_a_row_is_written_as_openai_has_it():
    turns = [say("system"), say(name="Ann"), calling(call()), told(), say("assistant", weight=0)]
    turns += [say(), say("assistant", weight=0.5)]
    weather = {"type": "function", "function": {"name": "weather"}}
    row = {"messages": turns, "tools": [weather], "parallel_tool_calls": False}

    assert write(read(row)) == row


def test_a_plain_text_and_a_preference_are_no_chat():
    with pytest.raises(CannotHold, match="a plain text"):
        write("text")
    pair = Preference(read(answered())[:1], *[(Message(ASSISTANT, a, True),) for a in "ab"])
    with pytest.raises(CannotHold, match="a preference"):
        write(pair)


def test_null_says_that_a_field_is_not_there():
    nothing: dict[str, Any] = {
        "weight": None,
        "name": None,
        "tool_calls": None,
        "tool_call_id": None,
        "refusal": None,
    }
    turns = [say(**nothing), say("assistant", **nothing)]

    assert read({"messages": turns}) == read({"messages": [say(), say("assistant")]})
