"""What is asked, and what is learnt as its answer: two texts, or, as TRL has them, two lists of
messages, of which the second is learnt."""

import json
from collections.abc import Sequence
from dataclasses import replace

from services.chat.conversation import Content, Conversation, Message, Role
from services.dataset.domain.formats.chat import (
    read_messages,
    refuse_weights,
    role_places,
    with_ids,
    write_messages,
)
from services.dataset.domain.formats.rows import CannotHold, Flaws, Row, require_conversation
from services.dataset.domain.formats.tools import definitions
from services.dataset.domain.formats.turns import check_turns

PROMPT, COMPLETION, TOOLS = "prompt", "completion", "tools"
FIELDS = (PROMPT, COMPLETION, TOOLS)


def read(row: Row) -> Conversation:
    """Raises BadLine."""
    flaws = Flaws()
    flaws.reject_unknown(row, FIELDS)
    is_of_lists = isinstance(row.get(PROMPT), list) or isinstance(row.get(COMPLETION), list)
    messages = _of_lists(row, flaws) if is_of_lists else _of_texts(row, flaws)
    tools = definitions(row.get(TOOLS), (TOOLS,), flaws)
    flaws.check()
    return Conversation(tuple(messages), tools)


def write(content: Content) -> Row:
    """Two texts where they are enough, else two lists. Raises CannotHold."""
    conversation = require_conversation(content)
    start = _completion_start(conversation)
    if _is_a_pair_of_texts(conversation):
        row: Row = {PROMPT: conversation[0].content, COMPLETION: conversation[1].content}
    else:
        told = with_ids(conversation)
        prompt = write_messages(told[:start], with_weights=False)
        row = {PROMPT: prompt, COMPLETION: write_messages(told[start:])}
    if conversation.tools:
        row[TOOLS] = json.loads(conversation.tools)
    return row


def not_learnt(messages: Sequence[Message]) -> list[Message]:
    return [replace(message, train=False, weight=1.0) for message in messages]


def _of_texts(row: Row, flaws: Flaws) -> list[Message]:
    prompt, completion = flaws.text(row, PROMPT), flaws.text(row, COMPLETION)
    return [Message(Role.USER, prompt), Message(Role.ASSISTANT, completion, train=True)]


def _of_lists(row: Row, flaws: Flaws) -> list[Message]:
    prompt = not_learnt(read_messages(row, PROMPT, flaws))
    refuse_weights(row.get(PROMPT), (PROMPT,), flaws)
    completion = read_messages(row, COMPLETION, flaws)
    messages = [*prompt, *completion]
    if not flaws.found:
        places = role_places((PROMPT,), len(prompt)) + role_places((COMPLETION,), len(completion))
        check_turns(messages, places, (COMPLETION,), flaws)
    return messages


def _completion_start(conversation: Conversation) -> int:
    """Where the first learnt answer stands, after which each is learnt or has a weight of 0."""
    start = next((i for i, message in enumerate(conversation) if message.train), 0)
    if start == 0:
        raise CannotHold("a conversation without a question and an answer to learn")
    return start


def _is_a_pair_of_texts(conversation: Conversation) -> bool:
    if [message.role for message in conversation] != [Role.USER, Role.ASSISTANT]:
        return False
    question, answer = conversation
    more = question.name or answer.name or answer.tool_calls
    return not more and answer.loss_weight == 1.0
