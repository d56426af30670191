"""A JSON array as it arrives → its elements, one at a time.

The array is read here, its elements are not: of an element only the brackets and strings are looked
at, to find its end. Its text goes on as a line does, so that whatever is wrong within it is found,
and named with the element's first line.
"""

import re
from collections.abc import Iterator

from services.dataset.domain.containers.entries import Broken, Entry
from services.dataset.domain.flaws import Flaw, FlawCode
from services.dataset.domain.lines import BYTE_ORDER_MARK, MAX_LINE_BYTES, Line

_BLANK = re.compile(rb"[ \t\r\n]*+")
_STRING = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_PLAIN = rb'[^"{}\[\]]++|"' + _STRING + rb'"'
_TO_BRACKET = re.compile(rb"(?:" + _PLAIN + rb"|[{\[](?:" + _PLAIN + rb")*+[}\]])*+", re.DOTALL)
"""Over whole strings, and objects and arrays without others in them, to the next bracket or to the
beginning of a string without end."""
_WORD = re.compile(rb'[^][{}",: \t\r\n]*+')
_OPENING, _CLOSING = b"{[", b"}]"


class JsonArray:
    """A container that is one array. It never holds more than one element of the greatest length.

    After what leaves open where the next element begins it looks no further.
    """

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        """Up to here `_data` has been looked at."""
        self._offset = 0
        """Where `_data` begins in the upload."""
        self._line = 1
        self._ends_line = True
        self._counted = 0
        """Up to here in `_data` line endings are in `_line`."""
        self._state = self._before_array
        self._element = 0
        """Where the element begins that is being read."""
        self._element_line = 1
        self._element_offset = 0
        self._depth = 0
        self._in_string = False
        self._too_long = False

    @property
    def count(self) -> int:
        """How many lines have ended."""
        return self._line - 1

    def feed(self, chunk: bytes) -> Iterator[Entry]:
        self._data += chunk
        self._ends_line = chunk.endswith(b"\n")
        while self._at < len(self._data):
            before = self._state, self._at
            yield from self._state()
            if before == (self._state, self._at):
                break
        self._forget()

    def end(self) -> Iterator[Entry]:
        yield from self._last_entries()
        self._count_lines(len(self._data))
        self._line += not self._ends_line

    def _last_entries(self) -> Iterator[Entry]:
        if self._state in (self._after_array, self._over):
            return
        if self._state == self._in_word:
            yield self._finish()
        self._count_lines(len(self._data))
        text = "the array is not closed; is the file whole?"
        yield self._broken(FlawCode.ARRAY_NOT_CLOSED, text)

    def close(self) -> None:
        """Nothing to let go of."""

    def _before_array(self) -> Iterator[Entry]:
        if self._offset == 0 and self._at == 0:
            if len(self._data) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(self._data):
                return
            self._at = len(BYTE_ORDER_MARK) * self._data.startswith(BYTE_ORDER_MARK)
        byte = self._next_byte()
        if byte == b"[":
            self._at += 1
            self._state = self._before_first
        elif byte:
            yield self._stop(f"an array begins with [, not with {_shown(byte)}")

    def _before_first(self) -> Iterator[Entry]:
        return self._before_element(may_end=True)

    def _after_comma(self) -> Iterator[Entry]:
        return self._before_element(may_end=False)

    def _before_element(self, *, may_end: bool) -> Iterator[Entry]:
        byte = self._next_byte()
        if not byte:
            return
        if byte == b"]":
            if not may_end:
                yield self._broken(FlawCode.MISSING_ELEMENT, "a comma, and no element behind it")
            self._at += 1
            self._state = self._after_array
        elif byte == b",":
            yield self._broken(FlawCode.MISSING_ELEMENT, "a comma, and no element before it")
            self._at += 1
            self._state = self._after_comma
        elif byte in b"}:":
            yield self._stop(f"no element begins with {_shown(byte)}")
        else:
            self._begin(byte)

    def _begin(self, byte: bytes) -> None:
        self._element, self._element_line = self._at, self._line
        self._element_offset = self._offset + self._at
        self._depth = 0
        nested = byte in _OPENING or byte == b'"'
        self._state = self._in_element if nested else self._in_word

    def _in_element(self) -> Iterator[Entry]:
        """In an object, an array, or a string."""
        self._at, self._depth, self._in_string = _scan(
            self._data, self._at, self._depth, in_string=self._in_string
        )
        if self._depth == 0 and not self._in_string:
            yield self._finish()

    def _in_word(self) -> Iterator[Entry]:
        """In a number, or in true, false or null."""
        self._at = _end(_WORD, self._data, self._at)
        if self._at < len(self._data):
            yield self._finish()

    def _after_element(self) -> Iterator[Entry]:
        byte = self._next_byte()
        if not byte:
            return
        if byte == b",":
            self._at += 1
            self._state = self._after_comma
        elif byte == b"]":
            self._at += 1
            self._state = self._after_array
        elif byte in b":}":
            yield self._stop(f"a comma or ] must follow an element, not {_shown(byte)}")
        else:
            yield self._broken(FlawCode.MISSING_COMMA, "a comma must stand before this element")
            self._begin(byte)

    def _after_array(self) -> Iterator[Entry]:
        if self._next_byte():
            text = "something stands behind the end of the array"
            yield self._broken(FlawCode.AFTER_ARRAY, text)
            self._state = self._over

    def _over(self) -> Iterator[Entry]:
        self._at = len(self._data)
        return iter(())

    def _next_byte(self) -> bytes:
        """The next one that is not blank; empty if it has not arrived."""
        self._at = _end(_BLANK, self._data, self._at)
        self._count_lines(self._at)
        return self._data[self._at : self._at + 1]

    def _count_lines(self, end: int) -> None:
        self._line += self._data.count(b"\n", self._counted, end)
        self._counted = end

    def _finish(self) -> Line:
        text = self._data[self._element : self._at]
        if self._too_long or len(text) > MAX_LINE_BYTES:
            text = None
        self._too_long = False
        self._state = self._after_element
        return Line(self._element_line, text, self._element_offset)

    def _broken(self, code: FlawCode, message: str) -> Broken:
        return Broken(self._line, [Flaw(code, message)], self._offset + self._at)

    def _stop(self, message: str) -> Broken:
        self._state = self._over
        return self._broken(FlawCode.NOT_JSON, message)

    def _forget(self) -> None:
        """What need not be kept of the data."""
        reading = self._state in (self._in_element, self._in_word)
        if reading and self._at - self._element > MAX_LINE_BYTES:
            self._too_long = True
        kept_from = self._element if reading and not self._too_long else self._at
        self._count_lines(self._at)
        self._data = self._data[kept_from:]
        self._offset += kept_from
        self._at -= kept_from
        self._counted -= kept_from
        self._element = 0


def _scan(data: bytes, at: int, depth: int, *, in_string: bool) -> tuple[int, int, bool]:
    """Goes on in an element, from `at`, where so many brackets are open, to its end or to that of
    the data. Says where it is, how many are open there, and whether a string is.

    Which bracket closes which is no matter: if they do not fit, the element is found not to be JSON
    when it is read.
    """
    while at < len(data):
        if in_string:
            at = _closing_quote(data, at)
            if data[at : at + 1] != b'"':
                return at, depth, True
            in_string = False
        else:
            at = _end(_TO_BRACKET, data, at) if depth else at
            byte = data[at : at + 1]
            in_string = byte == b'"'
            depth += (byte in _OPENING) - (byte in _CLOSING) if byte else 0
        at += 1
        if depth == 0 and not in_string:
            break
    return min(at, len(data)), depth, in_string


def _closing_quote(data: bytes, at: int) -> int:
    """Where a string ends that goes on `at`; else the end of the data, or the backslash there."""
    quote = data.find(b'"', at)
    while (escape := data.find(b"\\", at, quote if quote >= 0 else len(data))) >= 0:
        if escape == len(data) - 1:
            return escape
        at = escape + 2
        if escape + 1 == quote:
            quote = data.find(b'"', at)
    return quote if quote >= 0 else len(data)


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Where a match ends that is perhaps empty."""
    found = pattern.match(data, at)
    return found.end() if found else at


def _shown(byte: bytes) -> str:
    return byte.decode("ascii", "backslashreplace")
