"""Two answers to one prompt, in each of the spellings."""

from typing import Any

import pytest

from services.chat.conversation import Conversation, Message, Preference, Role
from services.dataset.domain.formats import chat
from services.dataset.domain.formats.catalogue import Shape, format_of
from services.dataset.domain.formats.preferences import read, write
from services.dataset.domain.formats.rows import CannotHold
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

ASK = say(content="1+1?")
GOOD, BAD = say("assistant", "2"), say("assistant", "3")
PLAIN = Preference(
    Conversation.of(Message(Role.USER, "1+1?")),
    (Message(Role.ASSISTANT, "2", train=True),),
    (Message(Role.ASSISTANT, "3", train=True),),
)
ENDS = {"chosen": "2", "rejected": "3"}
LISTS = {"chosen": [GOOD], "rejected": [BAD]}
OUTPUTS = {"preferred_output": [GOOD], "non_preferred_output": [BAD]}
OPENAI = {"input": {"messages": [ASK]}, **OUTPUTS}
TURNS = {"chosen": {"from": "gpt", "value": "2"}, "rejected": {"from": "gpt", "value": "3"}}
HUMAN = {"from": "human", "value": "1+1?"}

SPELLINGS: dict[str, dict[str, Any]] = {
    "OpenAI's guide": OPENAI,
    "OpenAI's reference": {
        "input": {"messages": [ASK]},
        "preferred_completion": [GOOD],
        "non_preferred_completion": [BAD],
    },
    "TRL, texts": {"prompt": "1+1?", **ENDS},
    "TRL, lists": {"prompt": [ASK], **LISTS},
    "TRL, a text and lists": {"prompt": "1+1?", **LISTS},
    "TRL, implicit": {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    "TRL, both": {"prompt": "1+1?", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    "ShareGPT": {"conversations": [HUMAN], **TURNS},
    "Alpaca": {"instruction": "1+1?", "input": "", **ENDS},
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_spelling_tells_the_same(name: str):
    assert format_of(SPELLINGS[name]) is SourceFormat.PREFERENCE
    assert read(SPELLINGS[name]) == PLAIN
    assert write(read(SPELLINGS[name])) == OPENAI


def test_nothing_of_the_prompt_is_learnt():
    before = [say("system"), say(), say("assistant", "a"), say()]
    for row in (
        {"input": {"messages": before}, **OUTPUTS},
        {"prompt": before, **LISTS},
        {"chosen": [*before, GOOD], "rejected": [*before, BAD]},
        {"instruction": "?", "history": [["a", "b"]], "system": "c", **ENDS},
    ):
        pair = read(row)
        assert [message.train for message in pair.prompt] == [False] * 4
        assert [message.train for message in (*pair.chosen, *pair.rejected)] == [True, True]


def test_a_pair_may_have_tools_and_either_answer_may_call_them():
    good = [calling(call()), told(), say("assistant", "12")]
    tools = [{"type": "function", "function": WEATHER}]
    given = {"messages": [ASK], "tools": tools, "parallel_tool_calls": False}
    row = {"input": given, "preferred_output": good, "non_preferred_output": [BAD]}

    pair = read(row)

    assert pair.prompt.offers_tools
    assert pair.prompt.parallel_tool_calls is False
    assert [len(pair.chosen), len(pair.rejected)] == [3, 1]
    assert write(pair) == row
    for other in ({"prompt": [ASK], **LISTS}, {"conversations": [HUMAN], **TURNS}):
        assert read({**other, "tools": [WEATHER]}).prompt.tools == pair.prompt.tools


def test_a_prompt_may_end_with_what_a_tool_answers():
    row = {"prompt": [ASK, calling(call()), told()], **LISTS}

    assert read(row).prompt[-1].role is Role.TOOL


def with_input(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"input": {"messages": [*messages], **more}, **OUTPUTS}


BAD_ROWS: list[tuple[dict[str, Any], Found]] = [
    ({}, [
        ("MISSING_FIELD", "/prompt"),
        ("MISSING_FIELD", "/chosen"),
        ("MISSING_FIELD", "/rejected"),
    ]),
    ({"prompt": "a", "chosen": "b", "rejected": "", "id": 7}, [
        ("UNKNOWN_FIELD", "/id"),
        ("EMPTY", "/rejected"),
    ]),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, [("SAME_ANSWERS", "/rejected")]),
    ({"prompt": "a", "chosen": "b", "rejected": [BAD]}, [("WRONG_TYPE", "/chosen")]),
    ({"prompt": "a", "chosen": 1, "rejected": "b"}, [("WRONG_TYPE", "/chosen")]),
    ({"chosen": "Human: a", "rejected": "Human: b"}, [("MISSING_FIELD", "/prompt")]),
    (LISTS, [("MISSING_FIELD", "/prompt")]),
    ({"prompt": "other", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, [
        ("WRONG_PROMPT", "/prompt"),
    ]),
    ({"chosen": [ASK, GOOD], "rejected": [ASK]}, [("EMPTY", "/rejected")]),
    ({"chosen": [ASK, GOOD], "rejected": [ASK, say(), BAD]}, [("ROLE_ORDER", "/rejected/1/role")]),
    ({"chosen": [ASK, GOOD, ASK, GOOD], "rejected": [ASK, GOOD, say(), BAD]}, [
        ("ROLE_ORDER", "/chosen/2/role"),
        ("ROLE_ORDER", "/rejected/2/role"),
    ]),
    ({"prompt": [ASK, BAD], **LISTS}, [
        ("ROLE_ORDER", "/chosen/0/role"),
        ("ROLE_ORDER", "/rejected/0/role"),
    ]),
    ({"prompt": [say("assistant"), ASK], **LISTS}, [("ROLE_ORDER", "/prompt/0/role")]),
    ({"prompt": [ASK], "chosen": [{**GOOD, "weight": 1}], "rejected": [{**BAD, "train": True}]}, [
        ("UNKNOWN_FIELD", "/chosen/0/weight"),
        ("UNKNOWN_FIELD", "/rejected/0/train"),
    ]),
    ({"prompt": [ASK], "chosen": [GOOD, say()], "rejected": [BAD]}, [
        ("ROLE_ORDER", "/chosen/1/role"),
    ]),
    ({"prompt": [ASK] * 256, **LISTS}, [
        ("TOO_MANY_MESSAGES", "/chosen"),
        ("TOO_MANY_MESSAGES", "/rejected"),
    ]),
    (OUTPUTS | {"input": "1+1?"}, [("NOT_AN_OBJECT", "/input")]),
    (OUTPUTS, [("MISSING_FIELD", "/input/messages")]),
    (with_input(), [("EMPTY", "/input/messages")]),
    (with_input(ASK, model="a"), [("UNKNOWN_FIELD", "/input/model")]),
    (with_input(ASK, tools=7, parallel_tool_calls=7), [
        ("WRONG_TYPE", "/input/tools"),
        ("WRONG_TYPE", "/input/parallel_tool_calls"),
    ]),
    (with_input(ASK, {**GOOD, "weight": 0}, ASK), [("UNKNOWN_FIELD", "/input/messages/1/weight")]),
    (with_input(ASK, GOOD), [
        ("ROLE_ORDER", "/preferred_output/0/role"),
        ("ROLE_ORDER", "/non_preferred_output/0/role"),
    ]),
    ({"input": {"messages": [ASK]}, "preferred_output": [GOOD]}, [
        ("MISSING_FIELD", "/non_preferred_output"),
    ]),
    ({**OPENAI, "chosen": "a"}, [("UNKNOWN_FIELD", "/chosen")]),
    ({"conversations": [HUMAN], "chosen": TURNS["chosen"]}, [("MISSING_FIELD", "/rejected")]),
    ({"conversations": [HUMAN], **TURNS, "chosen": HUMAN}, [("ROLE_ORDER", "/chosen/from")]),
    ({"conversations": [HUMAN], **TURNS, "chosen": {**TURNS["chosen"], "weight": 1}}, [
        ("UNKNOWN_FIELD", "/chosen/weight"),
    ]),
    ({"conversations": [], **TURNS}, [("EMPTY", "/conversations")]),
    ({"instruction": "", "chosen": "b", "rejected": "c"}, [("EMPTY", "/instruction")]),
    ({"instruction": "a", "output": "b", **ENDS}, [("UNKNOWN_FIELD", "/output")]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "flaws"), BAD_ROWS)
def test_each_flaw_of_a_preference_is_named_with_its_place(row: dict[str, Any], flaws: Found):
    assert flaws_of(SourceFormat.PREFERENCE, row) == flaws


def test_the_columns_may_have_other_names():
    columns = {"prompt": "question", "chosen": "better", "rejected": "worse"}
    row = {"question": "1+1?", "better": "2", "worse": "3", "score": 0.5}

    assert Shape(SourceFormat.PREFERENCE, columns).reader()(row) == PLAIN
    del row["worse"]
    assert flaws_of(SourceFormat.PREFERENCE, row, **columns) == [("MISSING_FIELD", "/worse")]


def test_a_preference_has_two_answers():
    with pytest.raises(ValueError, match="between two answers"):
        Preference(PLAIN.prompt, PLAIN.chosen, ())
    with pytest.raises(CannotHold, match="without two answers"):
        write(chat.read(answered()))
