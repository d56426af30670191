"""Conversations as ChatML writes them in one text."""

import pytest

from services.chat.conversation import Conversation, Message, Role, ToolCall
from services.dataset.domain.formats.catalogue import Shape, format_of
from services.dataset.domain.formats.chatml import read, write
from services.dataset.domain.formats.rows import CannotHold
from services.dataset.domain.resources import SourceFormat
from tests.unit.dataset.formats.rows import LETTERS, Found, flaws_of

USER, ASSISTANT = Role.USER, Role.ASSISTANT


def turn(role: str = "user", content: str = "text") -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


ANSWER = turn("assistant", "yes")
EACH = "<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"

TEXTS: list[tuple[object, Found]] = [
    ("", [("EMPTY", "/text")]),
    (7, [("WRONG_TYPE", "/text")]),
    ("plain", [("NOT_CHATML", "/text")]),
    (turn() + "plain" + ANSWER, [("NOT_CHATML", "/text")]),
    (turn() + ANSWER.removesuffix("<|im_end|>\n"), [("NOT_CHATML", "/text")]),
    (turn() + ANSWER + "<|im_start|>", [("NOT_CHATML", "/text")]),
    ("<|im_start|>user text<|im_end|>" + ANSWER, [("NOT_CHATML", "/text")]),
    (turn().replace("<|im_end|>", "") + ANSWER, [("NOT_CHATML", "/text")]),
    (turn(content="<|im_start|>") + ANSWER, [("NOT_CHATML", "/text")]),
    (turn() + ANSWER + "<|endoftext|>", [("NOT_CHATML", "/text")]),
    (turn("bot") + ANSWER, [("UNKNOWN_ROLE", "/text")]),
    (turn("tool") + ANSWER, [("UNKNOWN_ROLE", "/text")]),
    (turn(content="") + ANSWER, [("EMPTY", "/text")]),
    (turn() * 257, [("TOO_MANY_MESSAGES", "/text")]),
    (ANSWER, [("ROLE_ORDER", "/text")]),
    (turn(), [("NO_ASSISTANT_TURN", "/text")]),
]


@pytest.mark.parametrize(("text", "flaws"), TEXTS)
def test_each_flaw_of_a_chatml_text_is_named(text: object, flaws: Found):
    assert flaws_of(SourceFormat.CHATML, {"text": text}) == flaws


def test_each_answer_of_a_chatml_text_is_learnt():
    text = turn("system", "Be brief.") + (turn() + ANSWER) * 2

    conversation = read({"text": text})

    assert [message.role.value for message in conversation[:3]] == ["system", "user", "assistant"]
    assert [message.train for message in conversation] == [False, False, True, False, True]


@pytest.mark.parametrize("text", [EACH, EACH.replace(">\n<", "><"), f"\n {EACH}\n\n", EACH[:-1]])
def test_white_space_between_turns_is_nothing(text: str):
    question, answer = read({"text": text})

    assert (question.content, answer.content) == ("a\nb", "yes")


def test_a_text_of_256_turns_is_read():
    assert len(read({"text": turn() * 255 + ANSWER})) == 256


def test_what_a_turn_says_is_kept_to_the_letter():
    row = {"text": turn(content=LETTERS) + ANSWER}

    assert read(row)[0].content == LETTERS
    assert write(read(row)) == row


def test_it_is_told_by_how_the_text_begins_and_may_be_taken_for_plain_text():
    row = {"text": EACH}

    assert format_of(row) is SourceFormat.CHATML
    assert format_of({"text": f"It says {EACH}"}) is SourceFormat.TEXT
    assert Shape(SourceFormat.TEXT).reader()(row) == EACH


def test_the_text_may_stand_in_another_column():
    shape = Shape(SourceFormat.CHATML, {"text": "rendered"})

    assert shape.reader()({"rendered": EACH, "id": 7}) == read({"text": EACH})
    bad = {"rendered": "plain"}
    assert flaws_of(SourceFormat.CHATML, bad, text="rendered") == [("NOT_CHATML", "/rendered")]


CALL = Message(ASSISTANT, "", train=True, tool_calls=(ToolCall("a", "{}"),))


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (Message(ASSISTANT, "<|im_end|>", train=True), "<|im_start|>"),
        (Message(ASSISTANT, "a", train=True, weight=0.5), "weights"),
        (Message(ASSISTANT, "a", train=True, name="Ann"), "names"),
        (CALL, "tools"),
    ],
)
def test_what_a_chatml_text_has_no_place_for_is_named(answer: Message, what: str):
    with pytest.raises(CannotHold) as caught:
        write(Conversation.of(Message(USER, "?"), answer))
    assert what in caught.value.what
