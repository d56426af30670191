"""Bytes as they arrive → numbered lines, in bounded memory."""

from collections.abc import Iterator
from typing import NamedTuple

MAX_LINE_BYTES = 1024 * 1024
"""The longest line that is read, without its ending."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CARRIAGE_RETURN = b"\r"
_SLACK_BYTES = len(_BYTE_ORDER_MARK) + len(_CARRIAGE_RETURN)


class Line(NamedTuple):
    """A line without its ending. `number` counts from 1; `text` is None if it was too long."""

    number: int
    text: bytes | None


class LineSplitter:
    """Cuts chunks into lines, wherever the chunks begin and end.

    A line ends with LF or CRLF, the last one also with the end. A byte order mark is dropped at
    the very beginning and nowhere else. Of a line that is too long only its number is kept: the
    splitter never holds more than one line of the greatest length.
    """

    def __init__(self) -> None:
        self.count = 0
        """How many lines have ended."""
        self._begun = bytearray()
        self._too_long = False

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that end in this chunk. Exhaust it before the next call."""
        *ended, begun = chunk.split(b"\n")
        for piece in ended:
            yield self._finish(piece)
        self._keep(begun)

    def end(self) -> Iterator[Line]:
        """The last line, if something follows the last line ending."""
        if self._begun or self._too_long:
            yield self._finish(b"")

    def _keep(self, piece: bytes) -> None:
        self._begun += piece
        if len(self._begun) > MAX_LINE_BYTES + _SLACK_BYTES:
            self._too_long = True
            self._begun.clear()

    def _finish(self, piece: bytes) -> Line:
        if self._begun:
            piece = bytes(self._begun) + piece
            self._begun.clear()
        too_long, self._too_long = self._too_long, False
        self.count += 1
        text = piece.removesuffix(_CARRIAGE_RETURN)
        if self.count == 1:
            text = text.removeprefix(_BYTE_ORDER_MARK)
        return Line(self.count, None if too_long or len(text) > MAX_LINE_BYTES else text)
