"""Comma-separated values, as RFC 4180 has them, the comma perhaps a semicolon or a tab.

The first record names the columns. A quoted field may hold delimiters, doubled quotes and line
endings; whatever is not told apart by these rules is a fault, and never guessed.
"""

import re
from collections.abc import Iterator

from services.dataset.domain.containers.entries import Broken, Entry, Record
from services.dataset.domain.flaws import Flaw, FlawCode
from services.dataset.domain.formats.rows import Row
from services.dataset.domain.lines import MAX_LINE_BYTES, Line, LineSplitter
from services.dataset.domain.strict_json import MAX_FLAWS_PER_LINE

MAX_COLUMNS = 1000

DELIMITERS = (",", ";", "\t")
_BLANK = b" \r"
_QUOTED = re.compile(r'"[^"]*+(?:""[^"]*+)*+"')
_TO_CLOSING_QUOTE = re.compile(r'[^"]*+(?:""[^"]*+)*+')


def delimiter_of(header: str) -> str:
    """The delimiter that a header has most of, outside quotes."""
    bare = _QUOTED.sub("", header)
    return max(DELIMITERS, key=bare.count)


class _Fields:
    """The fields of one record, line by line."""

    def __init__(self, number: int, offset: int, delimiter: str) -> None:
        self.number = number
        self.offset = offset
        self.done: list[str] = []
        self.size_bytes = 0
        self.flaws: list[Flaw] = []
        self._delimiter = delimiter
        self._open: list[str] | None = None
        """The field in quotes that has begun, in pieces."""

    @property
    def is_open(self) -> bool:
        return self._open is not None

    def take(self, line: str) -> None:
        """A line with its ending."""
        at = 0
        while True:
            if self._open is not None:
                end = self._read_quoted(line, at, self._open)
                if end is None:
                    return
                at = end
            elif line.startswith('"', at):
                self._open = []
                at += 1
                continue
            else:
                at = self._read_bare(line, at)
            if line.startswith(self._delimiter, at):
                at += 1
            elif line[at:] in _ENDINGS:
                return
            else:
                self.add_flaw(FlawCode.STRAY_QUOTE, _BEHIND_QUOTE)
                return

    def add_flaw(self, code: FlawCode, text: str) -> None:
        """Of the field that is being read."""
        self.flaws.append(Flaw(code, text, (len(self.done),)))

    def _read_quoted(self, line: str, at: int, pieces: list[str]) -> int | None:
        """The place behind the closing quote; None if it is in another line."""
        found = _TO_CLOSING_QUOTE.match(line, at)
        end = found.end() if found else at
        pieces.append(line[at:end])
        if end == len(line):
            return None
        self.done.append("".join(pieces).replace('""', '"'))
        self._open = None
        return end + 1

    def _read_bare(self, line: str, at: int) -> int:
        end = line.find(self._delimiter, at)
        if end < 0:
            end = len(line) - (2 if line.endswith("\r\n") else 1)
        field = line[at:end]
        if '"' in field:
            self.add_flaw(FlawCode.STRAY_QUOTE, _QUOTE_WITHIN)
        elif "\r" in field:
            self.add_flaw(FlawCode.STRAY_RETURN, _RETURN_WITHIN)
        self.done.append(field)
        return end


class Table:
    """A container whose records are rows of strings."""

    def __init__(self) -> None:
        self._lines = LineSplitter(keep_returns=True)
        self._delimiter = ""
        self._columns: list[str] = []
        self._begun: _Fields | None = None
        self._is_over = False

    @property
    def count(self) -> int:
        return self._lines.count

    def feed(self, chunk: bytes) -> Iterator[Entry]:
        return iter(()) if self._is_over else self._entries(self._lines.feed(chunk))

    def end(self) -> Iterator[Entry]:
        yield from self._entries(self._lines.end())
        if self._begun is not None and not self._is_over:
            yield self._stop(self._begun, _not_closed("before the end of the file"))

    def close(self) -> None:
        """Nothing to let go of."""

    def _entries(self, lines: Iterator[Line]) -> Iterator[Entry]:
        for line in lines:
            if not self._is_over:
                yield from self._take(line)

    def _take(self, line: Line) -> Iterator[Entry]:
        if line.text is None:
            place = self._begun or _Fields(line.number, line.offset, "")
            yield self._stop(place, Flaw(FlawCode.LINE_TOO_LONG, _TOO_LONG))
            return
        if self._begun is None and not line.text.strip(_BLANK):
            return
        text, flaw = _decoded(line.text)
        self._delimiter = self._delimiter or delimiter_of(text)
        fields = self._begun = self._begun or _Fields(line.number, line.offset, self._delimiter)
        if flaw is not None:
            fields.add_flaw(*flaw)
        fields.take(text)
        fields.size_bytes += len(line.text) + 1
        if not fields.is_open:
            self._begun = None
            yield from self._finish(fields)
        elif fields.size_bytes > MAX_LINE_BYTES:
            yield self._stop(fields, _not_closed(f"within {MAX_LINE_BYTES} bytes"))

    def _finish(self, fields: _Fields) -> Iterator[Entry]:
        flaws = [self._placed(flaw) for flaw in fields.flaws[:MAX_FLAWS_PER_LINE]]
        if not self._columns:
            self._columns = fields.done
            flaws += _header_flaws(fields.done)
            self._is_over = bool(flaws)
        elif not flaws and len(fields.done) == len(self._columns):
            row: Row = dict(zip(self._columns, fields.done, strict=True))
            yield Record(fields.number, row, fields.offset)
        elif not flaws:
            text = f"has {len(fields.done)} fields, and the header {len(self._columns)}"
            flaws = [Flaw(FlawCode.WRONG_FIELD_COUNT, text)]
        if flaws:
            yield Broken(fields.number, flaws, fields.offset)

    def _placed(self, flaw: Flaw) -> Flaw:
        """The flaw by its column's name, where that is known."""
        place = int(flaw.path[0])
        named = (self._columns[place],) if place < len(self._columns) else ()
        return Flaw(flaw.code, flaw.message, named)

    def _stop(self, fields: _Fields, flaw: Flaw) -> Broken:
        """It is not known where the next record begins."""
        self._is_over = True
        return Broken(fields.number, [flaw], fields.offset)


_ENDINGS = ("\n", "\r\n")
_TOO_LONG = f"a line may have {MAX_LINE_BYTES} bytes; what follows was not read"
_BEHIND_QUOTE = "only a delimiter may follow a closing quote; double a quote in a field"
_QUOTE_WITHIN = "a quote within a field: put the field in quotes and double it"
_RETURN_WITHIN = "a carriage return within a field: end lines with LF or CRLF"


def _decoded(line: bytes) -> tuple[str, tuple[FlawCode, str] | None]:
    """The text of a line and what is wrong with its bytes. The delimiters of one that is not UTF-8
    are found nonetheless."""
    if b"\0" in line:
        text = line.decode(errors="surrogateescape")
        return f"{text}\n", (FlawCode.NOT_TEXT, "holds a NUL byte; save the file as UTF-8 text")
    try:
        return f"{line.decode()}\n", None
    except UnicodeDecodeError as error:
        text = line.decode(errors="surrogateescape")
        message = f"byte {error.start + 1} is not valid UTF-8; save the file as UTF-8"
        return f"{text}\n", (FlawCode.NOT_UTF8, message)


def _not_closed(where: str) -> Flaw:
    return Flaw(FlawCode.QUOTE_NOT_CLOSED, f"a quote opens here and is not closed {where}")


def _header_flaws(columns: list[str]) -> Iterator[Flaw]:
    if len(columns) > MAX_COLUMNS:
        text = f"has {len(columns)} columns; {MAX_COLUMNS} are allowed"
        yield Flaw(FlawCode.WRONG_FIELD_COUNT, text)
        return
    known: set[str] = set()
    for index, column in enumerate(columns):
        if not column.strip():
            text = f"column {index + 1} has no name; the first line names the columns"
            yield Flaw(FlawCode.EMPTY_COLUMN_NAME, text)
        elif column in known:
            yield Flaw(FlawCode.DUPLICATE_COLUMN, "two columns have this name", (column,))
        known.add(column)
