"""ShareGPT's turns, with tools."""

import json
from typing import Any

import pytest

from services.chat.conversation import Conversation, Message, Role, ToolCall
from services.dataset.domain.formats import chat
from services.dataset.domain.formats.rows import CannotHold
from services.dataset.domain.formats.sharegpt import read, write
from services.dataset.domain.resources import SourceFormat
from tests.unit.dataset.formats.rows import WEATHER, Found, call, calling, flaws_of, say, told

CALL = '{"name": "weather", "arguments": {"city": "Bonn"}}'
HUMAN: dict[str, Any] = {"from": "human", "value": "?"}
GPT: dict[str, Any] = {"from": "gpt", "value": "!"}


def turn(speaker: Any, value: Any = "text", **more: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value, **more}


def row(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"conversations": [*turns], **more}


def calls(text: str) -> dict[str, Any]:
    return row(HUMAN, turn("function_call", text), turn("observation"), GPT)


PLACE = "/conversations/1/value"
ROWS: list[tuple[dict[str, Any], Found]] = [
    ({}, [("MISSING_FIELD", "/conversations")]),
    (row(), [("EMPTY", "/conversations")]),
    (row(HUMAN, GPT, id=7, system=7), [("UNKNOWN_FIELD", "/id"), ("WRONG_TYPE", "/system")]),
    (row(*[HUMAN] * 255, GPT, system="a"), [("TOO_MANY_MESSAGES", "/conversations")]),
    (row("a", GPT), [("NOT_AN_OBJECT", "/conversations/0")]),
    (row({"value": "a", "x": 1}), [
        ("UNKNOWN_FIELD", "/conversations/0/x"),
        ("MISSING_FIELD", "/conversations/0/from"),
    ]),
    (row(turn("bot")), [("UNKNOWN_ROLE", "/conversations/0/from")]),
    (row(turn("human", ""), turn("gpt", None)), [
        ("EMPTY", "/conversations/0/value"),
        ("WRONG_TYPE", "/conversations/1/value"),
    ]),
    (row(turn("human", weight=1), GPT), [("UNKNOWN_FIELD", "/conversations/0/weight")]),
    (row(HUMAN, turn("gpt", weight=-1)), [("OUT_OF_RANGE", "/conversations/1/weight")]),
    (row(GPT, HUMAN), [
        ("ROLE_ORDER", "/conversations/0/from"),
        ("ROLE_ORDER", "/conversations/1/from"),
    ]),
    (row(HUMAN, GPT, GPT), [("ROLE_ORDER", "/conversations/2/from")]),
    (row(HUMAN, GPT, HUMAN), [("ROLE_ORDER", "/conversations/2/from")]),
    (row(HUMAN, turn("observation"), GPT), [("ROLE_ORDER", "/conversations/1/from")]),
    (row(HUMAN, turn("function_call", CALL), GPT), [
        ("ROLE_ORDER", "/conversations/2/from"),
        ("TOOL_CALL_UNANSWERED", "/conversations/2/from"),
    ]),
    (row(turn("system"), HUMAN, GPT, system="a"), [("ROLE_ORDER", "/conversations/0/from")]),
    (row(HUMAN, turn("gpt", weight=0)), [("NO_ASSISTANT_TURN", "/conversations")]),
    (row(HUMAN, GPT, tools="weather"), [("NOT_JSON", "/tools"), ("WRONG_TYPE", "/tools")]),
    (calls("weather"), [("NOT_JSON", PLACE)]),
    (calls("null"), [("NOT_AN_OBJECT", PLACE)]),
    (calls("[]"), [("EMPTY", PLACE)]),
    (calls("[7]"), [("NOT_AN_OBJECT", PLACE)]),
    (calls(json.dumps([json.loads(CALL)] * 129)), [("OUT_OF_RANGE", PLACE)]),
    (calls('{"arguments": {}}'), [("MISSING_FIELD", f"{PLACE}/name")]),
    (calls('{"name": "a", "id": 7}'), [("UNKNOWN_FIELD", f"{PLACE}/id")]),
    (calls('{"name": "a", "name": "b"}'), [("DUPLICATE_KEY", PLACE)]),
    (calls('{"name": "a", "arguments": [1]}'), [("WRONG_TYPE", PLACE)]),
    (calls('{"name": "a", "arguments": "b"}'), [("NOT_JSON", PLACE)]),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "flaws"), ROWS)
def test_each_flaw_of_a_sharegpt_row_is_named(bad: dict[str, Any], flaws: Found):
    assert flaws_of(SourceFormat.SHAREGPT, bad) == flaws


def test_a_call_and_what_is_observed_are_turns_of_assistant_and_tool():
    observed = turn("observation", "")
    conversation = read(row(HUMAN, turn("function_call", CALL), observed, GPT, system="Be brief."))

    assert conversation == Conversation.of(
        Message(Role.SYSTEM, "Be brief."),
        Message(Role.USER, "?"),
        Message(
            Role.ASSISTANT,
            "",
            train=True,
            tool_calls=(ToolCall("weather", '{"city": "Bonn"}'),),
        ),
        Message(Role.TOOL, ""),
        Message(Role.ASSISTANT, "!", train=True),
    )


def test_several_calls_are_answered_in_their_order():
    both = turn("function_call", f"[{CALL}, {CALL}]")

    assert len(read(row(HUMAN, both, turn("observation"), turn("observation"), GPT))) == 5
    bad = row(HUMAN, both, turn("observation"), GPT)
    assert flaws_of(SourceFormat.SHAREGPT, bad) == [
        ("TOOL_CALL_UNANSWERED", "/conversations/3/from")
    ]
    bad = row(HUMAN, both, *[turn("observation")] * 3, GPT)
    assert flaws_of(SourceFormat.SHAREGPT, bad) == [("UNKNOWN_TOOL_CALL", "/conversations/4/from")]


def test_other_words_for_the_speakers_mean_the_same():
    other = row(
        turn("user", "?"), turn("function_call", CALL), turn("tool"), turn("assistant", "!")
    )

    assert read(other) == read(calls(CALL))


def test_the_order_of_humans_is_free_but_an_answer_needs_a_question():
    assert len(read(row(HUMAN, HUMAN, GPT, HUMAN, GPT))) == 5


def test_a_row_is_written_as_it_was():
    definitions = json.dumps([WEATHER])
    whole = row(
        HUMAN,
        turn("function_call", CALL),
        turn("observation", "12 °C"),
        turn("gpt", "Mild.", weight=0.5),
        HUMAN,
        turn("function_call", f"[{CALL}, {CALL}]"),
        *[turn("observation", "")] * 2,
        turn("gpt", weight=0),
        system="Be brief.",
        tools=definitions,
    )

    assert write(read(whole)) == whole
    assert write(read(row(HUMAN, GPT, tools="[]"))) == row(HUMAN, GPT, tools="[]")


def test_what_a_sharegpt_row_has_no_place_for_is_named():
    both = calling(call(), call("c2"))
    end = say("assistant")
    in_order = {"messages": [say(), both, told(), told(id="c2"), end]}
    turned = {"messages": [say(), both, told(id="c2"), told(), end]}
    named = {"messages": [say(name="Ann"), end]}
    spoken = {"messages": [say(), calling(call(), content="Wait."), told(), end]}

    assert read(write(chat.read(in_order)))[1].tool_calls[0].name == "weather"
    for bad, what in ((turned, "another order"), (named, "names"), (spoken, "a text beside")):
        with pytest.raises(CannotHold, match=what):
            write(chat.read(bad))
    with pytest.raises(CannotHold, match="a plain text"):
        write("text")
