"""Tools and calls of them, as chat rows have them."""

import json
from typing import Any

import pytest

from services.chat.conversation import NO_TOOLS, Conversation, Message, Role, ToolCall
from services.dataset.domain.formats.chat import read
from services.dataset.domain.resources import SourceFormat
from tests.unit.dataset.formats.rows import (
    WEATHER,
    Found,
    answered,
    call,
    calling,
    flaws_of,
    say,
    told,
)

WRAPPED = {"type": "function", "function": WEATHER}


@pytest.mark.parametrize(
    "tools",
    [[WRAPPED], [WEATHER], json.dumps([WRAPPED]), json.dumps([WEATHER])],
    ids=["wrapped", "bare", "wrapped in a string", "bare in a string"],
)
def test_definitions_are_kept_as_openai_has_them(tools: Any):
    conversation = read({**answered(), "tools": tools})

    assert json.loads(conversation.tools) == [WRAPPED]
    assert conversation.uses_tools


@pytest.mark.parametrize("tools", [[], "[]"])
def test_an_empty_list_says_that_there_are_no_tools(tools: Any):
    conversation = read({**answered(), "tools": tools})

    assert conversation.tools == NO_TOOLS
    assert not conversation.uses_tools
    assert (
        read({**answered(), "tools": None}).tools == read({**answered(), "tools": ""}).tools == ""
    )


def called(*calls: Any, **more: Any) -> dict[str, Any]:
    """A row whose last turn is these calls."""
    return {"messages": [say(), calling(*calls, **more)]}


def between(*turns: Any) -> dict[str, Any]:
    return {"messages": [say(), *turns, say("assistant")]}


CALLS = "/messages/1/tool_calls"
ARGUMENTS = f"{CALLS}/0/function/arguments"
DEEP = '{"a": ' + "[" * 40 + "]" * 40 + "}"

BAD: list[tuple[dict[str, Any], Found]] = [
    ({**answered(), "tools": {}}, [("WRONG_TYPE", "/tools")]),
    ({**answered(), "tools": "weather"}, [("NOT_JSON", "/tools"), ("WRONG_TYPE", "/tools")]),
    ({**answered(), "tools": '[{"name": "a", "name": "b"}]'}, [
        ("DUPLICATE_KEY", "/tools"),
        ("WRONG_TYPE", "/tools"),
    ]),
    ({**answered(), "tools": ["weather"]}, [("NOT_AN_OBJECT", "/tools/0")]),
    ({**answered(), "tools": [{"type": "function", "function": 7}]}, [
        ("NOT_AN_OBJECT", "/tools/0/function"),
    ]),
    ({**answered(), "tools": [WRAPPED, {"parameters": {}}]}, [("MISSING_FIELD", "/tools/1/name")]),
    ({**answered(), "tools": [{"type": "web_search", "function": WEATHER}]}, [
        ("OUT_OF_RANGE", "/tools/0/type"),
    ]),
    ({**answered(), "tools": [{**WRAPPED, "x": 1}]}, [("UNKNOWN_FIELD", "/tools/0/x")]),
    ({**answered(), "tools": [WEATHER] * 129}, [("OUT_OF_RANGE", "/tools")]),
    ({**answered(), "parallel_tool_calls": "no"}, [("WRONG_TYPE", "/parallel_tool_calls")]),
    (called(), [("EMPTY", CALLS)]),
    (called(7), [("NOT_AN_OBJECT", f"{CALLS}/0")]),
    (called(call(), content=7), [("WRONG_TYPE", "/messages/1/content")]),
    (called(call(id="")), [("EMPTY", f"{CALLS}/0/id")]),
    (called({"function": {"name": "a", "arguments": "{}"}}), [("MISSING_FIELD", f"{CALLS}/0/id")]),
    (called({**call(), "type": "custom"}), [("OUT_OF_RANGE", f"{CALLS}/0/type")]),
    (called({**call(), "function": None}), [("NOT_AN_OBJECT", f"{CALLS}/0/function")]),
    (called({**call(), "index": 0}), [("UNKNOWN_FIELD", f"{CALLS}/0/index")]),
    (called(call(name="")), [("EMPTY", f"{CALLS}/0/function/name")]),
    (called(call(arguments={"city": "Bonn"})), [("WRONG_TYPE", ARGUMENTS)]),
    (called(call(arguments="")), [("EMPTY", ARGUMENTS)]),
    (called(call(arguments="{city: Bonn}")), [("NOT_JSON", ARGUMENTS)]),
    (called(call(arguments='{"a": NaN}')), [("NOT_A_FINITE_NUMBER", ARGUMENTS)]),
    (called(call(arguments='{"a": 1, "a": 2}')), [("DUPLICATE_KEY", ARGUMENTS)]),
    (called(call(arguments=DEEP)), [("TOO_DEEP", ARGUMENTS)]),
    (called(call(arguments="null")), [("WRONG_TYPE", ARGUMENTS)]),
    (called(*[call()] * 129), [("OUT_OF_RANGE", CALLS)]),
    (answered(say(tool_calls=[call()])), [("UNKNOWN_FIELD", "/messages/0/tool_calls")]),
    (answered(say(tool_call_id="c1")), [("UNKNOWN_FIELD", "/messages/0/tool_call_id")]),
    (between(calling(call()), say("tool", "12")), [("MISSING_FIELD", "/messages/2/tool_call_id")]),
    (between(calling(call()), told(id="")), [("EMPTY", "/messages/2/tool_call_id")]),
    (between(calling(call()), told(content=None)), [("WRONG_TYPE", "/messages/2/content")]),
    (between(told()), [("ROLE_ORDER", "/messages/1/role")]),
    (answered(told()), [("ROLE_ORDER", "/messages/0/role")]),
    (between(calling(call()), told(id="c2")), [
        ("UNKNOWN_TOOL_CALL", "/messages/2/role"),
        ("TOOL_CALL_UNANSWERED", "/messages/3/role"),
    ]),
    (between(calling(call()), told(), told()), [("UNKNOWN_TOOL_CALL", "/messages/3/role")]),
    (between(calling(call()), say()), [("TOOL_CALL_UNANSWERED", "/messages/2/role")]),
    (between(calling(call(), call("c2")), told()), [("TOOL_CALL_UNANSWERED", "/messages/3/role")]),
    ({"messages": [say(), calling(call()), told()]}, [("ROLE_ORDER", "/messages/2/role")]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "flaws"), BAD)
def test_each_flaw_of_tools_and_calls_is_named_with_its_place(row: dict[str, Any], flaws: Found):
    assert flaws_of(SourceFormat.CHAT, row) == flaws


def test_a_call_and_its_answer_are_turns_of_their_own():
    row = {**between(calling(call(), content=None), told()), "parallel_tool_calls": True}

    conversation = read(row)

    asked = ToolCall("weather", '{"city": "Bonn"}', "c1")
    assert conversation == Conversation(
        (
            Message(Role.USER, "text"),
            Message(Role.ASSISTANT, "", train=True, tool_calls=(asked,)),
            Message(Role.TOOL, "12 °C", tool_call_id="c1"),
            Message(Role.ASSISTANT, "text", train=True),
        ),
        parallel_tool_calls=True,
    )
    assert conversation.uses_tools


def test_parallel_calls_may_be_answered_in_any_order():
    row = between(calling(call(), call("c2"), content="Wait."), told(id="c2"), told("", id="c1"))

    assert [message.tool_call_id for message in read(row)] == ["", "", "c2", "c1", ""]


def test_the_last_turn_may_be_a_call():
    assert read(called(call()))[-1].tool_calls


def test_one_id_may_be_used_again_once_it_is_answered():
    assert len(read(between(calling(call()), told(), calling(call()), told()))) == 6


def test_a_call_that_is_not_learnt_has_a_weight_of_0():
    assert not read(between(calling(call(), weight=0), told()))[1].train
