"""Tells from the first rows of a file in which format they are, and which column holds what."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from services.dataset.domain.flaws import BadLine
from services.dataset.domain.formats import (
    alpaca,
    chat,
    plain_text,
    preferences,
    prompt_completion,
    sharegpt,
)
from services.dataset.domain.formats.catalogue import FORMATS, ReadRow, Shape, format_of
from services.dataset.domain.formats.rows import Row
from services.dataset.domain.resources import SourceFormat

_ALIASES: Mapping[str, tuple[str, ...]] = {
    chat.MESSAGES: ("conversations", "conversation", "chat", "dialog", "dialogue", "texts"),
    sharegpt.CONVERSATIONS: ("conversation", "messages", "dialog", "dialogue"),
    alpaca.INPUT: ("context",),
    alpaca.OUTPUT: ("response", "answer", "completion"),
    alpaca.SYSTEM: ("system_prompt",),
    prompt_completion.PROMPT: ("question", "query", "problem", "input", "source", "user"),
    prompt_completion.COMPLETION: (
        "answer",
        "response",
        "solution",
        "output",
        "target",
        "assistant",
    ),
    plain_text.TEXT: ("content", "body", "document", "article", "story"),
}
"""Names that tables on the web have for the fields of our formats, the likeliest first."""

_PREFERENCE_ALIASES: Mapping[str, tuple[str, ...]] = {
    prompt_completion.PROMPT: ("question", "query"),
    preferences.CHOSEN[0]: ("chosen_response",),
    preferences.CHOSEN[1]: ("rejected_response",),
}


@dataclass(frozen=True)
class Proposal:
    """How rows are best read: `readable_count` of the `row_count` looked at are examples then. The
    columns in `dropped` hold nothing that is kept."""

    shape: Shape
    dropped: tuple[str, ...]
    readable_count: int
    row_count: int


def propose(rows: Sequence[Row]) -> Proposal:
    """Of the formats whose essential columns are there, under their own or other usual names, the
    one in which most rows can be read, and of equals the one with the most columns kept."""
    return _best(rows, list(dict.fromkeys(column for row in rows for column in row)))


def propose_by_columns(columns: Sequence[str]) -> Proposal | None:
    """The same where only the columns are known; None if they say nothing."""
    return _best((), columns) if any(_shapes((), columns)) else None


def _best(rows: Sequence[Row], columns: Sequence[str]) -> Proposal:
    proposals = [_judged(shape, rows, columns) for shape in _shapes(rows, columns)]
    if not proposals:
        return _judged(Shape(format_of(rows[0]) if rows else format_of({})), rows, columns)
    return max(proposals, key=lambda one: (one.readable_count, -len(one.dropped)))


def _shapes(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[Shape]:
    first = rows[0] if rows else {}
    for name, known in FORMATS.items():
        aliases = _PREFERENCE_ALIASES if name is SourceFormat.PREFERENCE else _ALIASES
        found: dict[str, str] = {}
        for field in known.fields:
            names = (field, *aliases.get(field, ()))
            free = (one for one in names if one in columns and one not in found.values())
            if (column := next(free, None)) is not None:
                found[field] = column
        if known.is_told_by(found) and known.fits(_fields(first, found)):
            unused = set(columns) - set(found.values())
            renamed = any(field != column for field, column in found.items())
            yield Shape(name, found if renamed or unused else {})


def _fields(row: Row, columns: Mapping[str, str]) -> Row:
    return {field: row.get(column) for field, column in columns.items()}


def _judged(shape: Shape, rows: Sequence[Row], columns: Sequence[str]) -> Proposal:
    read = shape.reader()
    known = {shape.columns.get(field, field) for field in FORMATS[shape.format].fields}
    dropped = tuple(column for column in columns if column not in known) if shape.columns else ()
    return Proposal(shape, dropped, sum(_is_readable(row, read) for row in rows), len(rows))


def _is_readable(row: Row, read: ReadRow) -> bool:
    try:
        read(row)
    except BadLine:
        return False
    return True
