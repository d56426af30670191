"""Alpaca's fields: an instruction, the input that it is about, and the output to learn.

`history` are pairs of a question and an answer that came before; their answers are learnt, as
LLaMA-Factory does.
"""

from collections.abc import Sequence

from services.chat.conversation import Content, Conversation, Message, Role
from services.dataset.domain.flaws import FlawCode
from services.dataset.domain.formats.rows import (
    CannotHold,
    Flaws,
    Row,
    require_conversation,
    require_texts,
    require_unweighted,
)
from services.dataset.domain.formats.turns import MAX_MESSAGES
from services.dataset.domain.strict_json import Json

INSTRUCTION, INPUT, OUTPUT = "instruction", "input", "output"
SYSTEM, HISTORY = "system", "history"
MAX_PAIRS = (MAX_MESSAGES - 3) // 2
"""How many may stand in a history: beside a system message, a question and an answer."""

FIELDS = (INSTRUCTION, INPUT, OUTPUT, SYSTEM, HISTORY)
PROMPT_FIELDS = (INSTRUCTION, INPUT, SYSTEM, HISTORY)


def read(row: Row) -> Conversation:
    """Raises BadLine."""
    flaws = Flaws()
    flaws.reject_unknown(row, FIELDS)
    asked = read_prompt(row, flaws)
    output = flaws.text(row, OUTPUT)
    flaws.check()
    return Conversation.of(*asked, Message(Role.ASSISTANT, output, train=True))


def write(content: Content) -> Row:
    """Raises CannotHold. That no tools are there is not said."""
    conversation = require_conversation(content)
    require_texts(conversation)
    require_unweighted(conversation)
    turns = list(conversation.messages)
    system = turns.pop(0).content if turns and turns[0].role is Role.SYSTEM else ""
    *before, (question, answer) = _pairs(turns)
    instruction, given = _parts(question)
    row: Row = {INSTRUCTION: instruction, INPUT: given, OUTPUT: answer.content}
    if system:
        row[SYSTEM] = system
    if before:
        row[HISTORY] = [[asked.content, answered.content] for asked, answered in before]
    return row


def read_prompt(row: Row, flaws: Flaws) -> list[Message]:
    """All that stands before the output."""
    instruction = flaws.text(row, INSTRUCTION)
    given, system = flaws.optional_text(row, INPUT), flaws.optional_text(row, SYSTEM)
    opening = [Message(Role.SYSTEM, system)] if system else []
    return [*opening, *_history(row, flaws), _question(instruction, given)]


def _parts(question: Message) -> tuple[str, str]:
    """Its instruction and its input."""
    start, text = question.input_start, question.content
    if 1 < start < len(text) and text[start - 1] == "\n":
        return text[: start - 1], text[start:]
    return text, ""


def _pairs(turns: Sequence[Message]) -> list[tuple[Message, Message]]:
    """Questions with their answers. Raises CannotHold if these do not alternate."""
    pairs = list(zip(turns[::2], turns[1::2], strict=False))
    roles = {(question.role, answer.role) for question, answer in pairs}
    if len(turns) % 2 or roles != {(Role.USER, Role.ASSISTANT)}:
        raise CannotHold("questions and answers that do not alternate")
    return pairs


def _question(instruction: str, given: str) -> Message:
    if not given:
        return Message(Role.USER, instruction)
    start = len(instruction) + 1
    return Message(Role.USER, f"{instruction}\n{given}", input_start=start)


def _history(row: Row, flaws: Flaws) -> list[Message]:
    if not row.get(HISTORY):
        return []
    messages: list[Message] = []
    for index, pair in enumerate(flaws.objects(row, HISTORY, MAX_PAIRS)):
        messages += _pair(pair, index, flaws)
    return messages


def _pair(pair: Json, index: int, flaws: Flaws) -> list[Message]:
    match pair:
        case [str(question), str(answer)] if question and answer:
            return [Message(Role.USER, question), Message(Role.ASSISTANT, answer, train=True)]
        case _:
            text = "must be a list of a question and its answer, two strings"
            flaws.add(FlawCode.WRONG_TYPE, text, (HISTORY, index))
            return []
