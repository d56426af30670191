"""All formats, and how a row's own column names become the fields of one."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from services.chat.conversation import Content
from services.dataset.domain.flaws import BadLine, Flaw
from services.dataset.domain.formats import (
    alpaca,
    chat,
    chatml,
    plain_text,
    preferences,
    prompt_completion,
    sharegpt,
)
from services.dataset.domain.formats.rows import Row
from services.dataset.domain.resources import SourceFormat

ReadRow = Callable[[Row], Content]
"""Raises BadLine."""
WriteRow = Callable[[Content], Row]
"""The row under the format's own names, which is read as the same example. Raises CannotHold."""


def _any_row(_: Row) -> bool:
    return True


def _is_plain(row: Row) -> bool:
    return not chatml.begins(row)


@dataclass(frozen=True)
class Format:
    """How rows of one format are read and written. `fields` are those that it knows. A row is of it
    that has all fields of one of its `spellings`, if `fits` finds nothing else in them."""

    read: ReadRow
    write: WriteRow
    fields: tuple[str, ...]
    spellings: tuple[tuple[str, ...], ...]
    fits: Callable[[Row], bool] = _any_row

    def is_told_by(self, fields: Collection[str]) -> bool:
        return any(all(field in fields for field in spelling) for spelling in self.spellings)


FORMATS: Mapping[SourceFormat, Format] = {
    SourceFormat.PREFERENCE: Format(
        preferences.read, preferences.write, preferences.FIELDS, preferences.SPELLINGS
    ),
    SourceFormat.CHAT: Format(chat.read, chat.write, chat.FIELDS, ((chat.MESSAGES,),)),
    SourceFormat.SHAREGPT: Format(
        sharegpt.read, sharegpt.write, sharegpt.FIELDS, ((sharegpt.CONVERSATIONS,),)
    ),
    SourceFormat.ALPACA: Format(
        alpaca.read, alpaca.write, alpaca.FIELDS, ((alpaca.INSTRUCTION, alpaca.OUTPUT),)
    ),
    SourceFormat.PROMPT_COMPLETION: Format(
        prompt_completion.read,
        prompt_completion.write,
        prompt_completion.FIELDS,
        ((prompt_completion.PROMPT, prompt_completion.COMPLETION),),
    ),
    SourceFormat.CHATML: Format(
        chatml.read, chatml.write, chatml.FIELDS, (chatml.FIELDS,), chatml.begins
    ),
    SourceFormat.TEXT: Format(
        plain_text.read, plain_text.write, plain_text.FIELDS, (plain_text.FIELDS,), _is_plain
    ),
}
"""In the order in which they are tried on rows whose format nobody has named."""


@dataclass(frozen=True)
class Shape:
    """In which format rows are, and in which columns the format's fields stand.

    Whoever names a column (`columns`, by field) uploads a table as it is: fields that are not named
    stand under their own names, and other columns are dropped. Where none is named, a column that
    the format does not know is a mistake.
    """

    format: SourceFormat
    columns: Mapping[str, str] = field(default_factory=dict[str, str])

    def reader(self) -> ReadRow:
        known = FORMATS[self.format]
        if not self.columns:
            return known.read
        columns = {name: self.columns.get(name, name) for name in known.fields}

        def read(row: Row) -> Content:
            fields = {name: row[column] for name, column in columns.items() if column in row}
            try:
                return known.read(fields)
            except BadLine as bad:
                raise BadLine(*(_placed(flaw, columns) for flaw in bad.flaws)) from bad

        return read


def format_of(row: Row) -> SourceFormat:
    """The format that rows have of which this is the first; chat, whose flaws are then told, for
    one that is of none."""
    for name, known in FORMATS.items():
        if known.is_told_by(row) and known.fits(row):
            return name
    for name, known in FORMATS.items():
        if known.fits(row) and any(field in row for one in known.spellings for field in one):
            return name
    return SourceFormat.CHAT


def _placed(flaw: Flaw, columns: Mapping[str, str]) -> Flaw:
    """The flaw where the caller's row has it."""
    if not flaw.path:
        return flaw
    first, *rest = flaw.path
    return replace(flaw, path=(columns.get(str(first), first), *rest))
