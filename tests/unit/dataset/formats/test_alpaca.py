"""Alpaca's fields."""

from typing import Any

import pytest

from services.chat.conversation import Conversation, Message, Role, ToolCall
from services.dataset.domain.formats.alpaca import read, write
from services.dataset.domain.formats.rows import CannotHold
from services.dataset.domain.resources import SourceFormat
from tests.unit.dataset.formats.rows import LETTERS, Found, flaws_of

ROW = {"instruction": "Add.", "output": "2"}
USER, ASSISTANT = Role.USER, Role.ASSISTANT


def learnt(text: str) -> Message:
    return Message(ASSISTANT, text, train=True)


ROWS: list[tuple[dict[str, Any], Found]] = [
    ({}, [("MISSING_FIELD", "/instruction"), ("MISSING_FIELD", "/output")]),
    ({"instruction": 1, "output": ""}, [("WRONG_TYPE", "/instruction"), ("EMPTY", "/output")]),
    ({**ROW, "id": 7}, [("UNKNOWN_FIELD", "/id")]),
    ({**ROW, "input": 7, "system": []}, [("WRONG_TYPE", "/input"), ("WRONG_TYPE", "/system")]),
    ({**ROW, "history": "a"}, [("WRONG_TYPE", "/history")]),
    ({**ROW, "history": [["q"], ["q", ""], ["q", "a"], "qa", ["q", "a", "b"]]}, [
        ("WRONG_TYPE", "/history/0"),
        ("WRONG_TYPE", "/history/1"),
        ("WRONG_TYPE", "/history/3"),
        ("WRONG_TYPE", "/history/4"),
    ]),
    ({**ROW, "history": [["q", "a"]] * 127}, [("TOO_MANY_MESSAGES", "/history")]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "flaws"), ROWS)
def test_each_flaw_of_an_alpaca_row_is_named(row: dict[str, Any], flaws: Found):
    assert flaws_of(SourceFormat.ALPACA, row) == flaws


def test_the_input_follows_its_instruction():
    (question, answer) = read({**ROW, "input": "1 and 1"})

    assert question == Message(USER, "Add.\n1 and 1", input_start=5)
    assert question.content[question.input_start :] == "1 and 1"
    assert answer == learnt("2")


@pytest.mark.parametrize("row", [ROW, {**ROW, "input": ""}, {**ROW, "input": None, "history": []}])
def test_without_an_input_the_instruction_is_the_question(row: dict[str, Any]):
    assert read(row) == Conversation.of(Message(USER, "Add."), learnt("2"))


def test_a_history_may_have_126_pairs():
    assert len(read({**ROW, "history": [["q", "a"]] * 126, "system": "a"})) == 255


def test_the_answers_of_the_history_are_learnt_as_well():
    row = {**ROW, "system": "Be brief.", "history": [["a", "b"], ["c", "d"]]}

    assert read(row) == Conversation.of(
        Message(Role.SYSTEM, "Be brief."),
        Message(USER, "a"),
        learnt("b"),
        Message(USER, "c"),
        learnt("d"),
        Message(USER, "Add."),
        learnt("2"),
    )


@pytest.mark.parametrize("given", ["", "1\n\n1", LETTERS, "\n"])
@pytest.mark.parametrize("instruction", ["Add.", "Add\n\nup:\n", LETTERS, "\n"])
def test_a_row_is_written_as_it_was(instruction: str, given: str):
    row = {"instruction": instruction, "input": given, "output": "2"}

    assert write(read(row)) == row
    more = {"system": "Be brief.", "history": [["a", "b"]]}
    assert write(read({**row, **more})) == {**row, **more}


CALL = Message(ASSISTANT, "", train=True, tool_calls=(ToolCall("a", "{}"),))
ASKED = Message(USER, "Add.")
HELD_BY_OTHERS: dict[str, tuple[Conversation, str]] = {
    "tools": (Conversation((ASKED, learnt("2")), '[{"type": "function"}]'), "tools"),
    "calls": (Conversation.of(ASKED, CALL), "tools"),
    "names": (Conversation.of(Message(USER, "Add.", name="Ann"), learnt("2")), "names"),
    "weights": (Conversation.of(ASKED, Message(ASSISTANT, "2", True, 0.5)), "weights"),
    "an unlearnt answer": (
        Conversation.of(ASKED, Message(ASSISTANT, "1"), ASKED, learnt("2")),
        "not learnt",
    ),
    "two questions": (Conversation.of(ASKED, ASKED, learnt("2")), "alternate"),
    "two questions more": (Conversation.of(ASKED, ASKED, ASKED, learnt("2")), "alternate"),
    "no answer": (Conversation.of(ASKED), "alternate"),
    "nothing": (Conversation.of(), "alternate"),
}


@pytest.mark.parametrize("name", HELD_BY_OTHERS)
def test_what_an_alpaca_row_has_no_place_for_is_named(name: str):
    conversation, what = HELD_BY_OTHERS[name]

    with pytest.raises(CannotHold, match=what):
        write(conversation)
