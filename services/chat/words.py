"""Finds where the words of messages stand in what a chat template writes.

This asks neither the template's tags nor renderings of parts, as the mask does: so it can tell
whether the mask is right. The conversation is rendered once more with marks around the words of
each message. Without the marks that must be the same text; a template for which it is not (it may
look at how a message begins) leaves a search for the words in their order.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from services.chat.conversation import Conversation, Message, Role
from services.chat.errors import TemplateUnsupported
from services.chat.template import Span

# Code points that no text may assign a meaning, and other ones than the template's own marks.
_OPEN, _NUMBERED, _CLOSE = "\U0001fffe", "\U0001ffff", "\U0002fffe"
_MARK = re.compile(f"{_OPEN}([0-9]+){_NUMBERED}|{_CLOSE}")

Render = Callable[[Conversation], str]


def words_in(text: str, conversation: Conversation, render: Render) -> list[list[Span]]:
    """For each message where in `text`, its conversation's rendering, the words stand that are left
    when spaces around them are stripped: nowhere if they are not written as they are."""
    try:
        plain, spans = _without_marks(render(_marked(conversation)), len(conversation))
    except TemplateUnsupported:
        return _searched(text, conversation)
    return spans if plain == text else _searched(text, conversation)


def _marked(conversation: Conversation) -> Conversation:
    messages = (_marked_message(number, message) for number, message in enumerate(conversation))
    return replace(conversation, messages=tuple(messages))


def _marked_message(number: int, message: Message) -> Message:
    words = message.content.strip()
    if not words:
        return message
    before, after = message.content.split(words, maxsplit=1)
    content = f"{before}{_OPEN}{number}{_NUMBERED}{words}{_CLOSE}{after}"
    return replace(message, content=content)


def _without_marks(marked: str, count: int) -> tuple[str, list[list[Span]]]:
    spans: list[list[Span]] = [[] for _ in range(count)]
    pieces: list[str] = []
    opened: list[tuple[int, int]] = []
    length = position = 0
    for found in _MARK.finditer(marked):
        pieces.append(marked[position : found.start()])
        length += found.start() - position
        position = found.end()
        if found[1] is not None:
            opened.append((int(found[1]), length))
        elif opened:
            number, start = opened.pop()
            if number < count:
                spans[number].append((start, length))
    pieces.append(marked[position:])
    return "".join(pieces), spans


def _searched(text: str, conversation: Conversation) -> list[list[Span]]:
    spans: list[list[Span]] = []
    position = 0
    for message in conversation:
        found = _find(text, _forms(message), position)
        spans.append([found] if found else [])
        position = found[1] if found else position
    return spans


def _find(text: str, forms: Sequence[str], position: int) -> Span | None:
    """The first form that stands behind `position`; else one that stands before."""
    for start in (position, 0):
        for form in forms:
            found = text.find(form, start)
            if found >= 0:
                return found, found + len(form)
    return None


def _forms(message: Message) -> list[str]:
    """How a template may write the words: some quote what a tool answers."""
    words = message.content.strip()
    if not words:
        return []
    if message.role is not Role.TOOL:
        return [words]
    quoted = json.dumps(message.content, ensure_ascii=False), json.dumps(message.content)
    return [words, *(form.strip('"') for form in quoted)]
