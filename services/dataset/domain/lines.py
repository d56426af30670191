"""Bytes as they arrive → numbered lines, in bounded memory."""

from collections.abc import Iterator
from typing import NamedTuple

MAX_LINE_BYTES = 1024 * 1024
"""The longest line that is read, without its ending."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CARRIAGE_RETURN = b"\r"
_SLACK_BYTES = len(BYTE_ORDER_MARK) + len(_CARRIAGE_RETURN)


class Line(NamedTuple):
    """A line without its ending. `number` counts from 1; `text` is None if it was too long;
    `offset` is where among all bytes it begins."""

    number: int
    text: bytes | None
    offset: int


class LineSplitter:
    """Cuts chunks into lines, wherever the chunks begin and end.

    A line ends with LF or CRLF, the last one also with the end. A byte order mark is dropped at
    the very beginning and nowhere else. Of a line that is too long only its number is kept: the
    splitter never holds more than one line of the greatest length. Who asks to `keep_returns` has
    lines end with LF alone.
    """

    def __init__(self, *, keep_returns: bool = False) -> None:
        self.count = 0
        """How many lines have ended."""
        self._ending = b"" if keep_returns else _CARRIAGE_RETURN
        self._offset = 0
        self._begun = bytearray()
        self._begun_bytes = 0
        self._too_long = False

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that end in this chunk. Exhaust it before the next call."""
        *ended, begun = chunk.split(b"\n")
        for piece in ended:
            yield self._finish(piece)
        self._keep(begun)

    def end(self) -> Iterator[Line]:
        """The last line, if something follows the last line ending."""
        if self._begun_bytes:
            yield self._finish(b"")

    def close(self) -> None:
        """Nothing to let go of."""

    def _keep(self, piece: bytes) -> None:
        self._begun_bytes += len(piece)
        self._begun += piece
        if len(self._begun) > MAX_LINE_BYTES + _SLACK_BYTES:
            self._too_long = True
            self._begun.clear()

    def _finish(self, piece: bytes) -> Line:
        offset = self._offset
        self._offset += self._begun_bytes + len(piece) + 1
        too_long = self._too_long
        if self._begun_bytes:
            piece = bytes(self._begun) + piece
            self._begun.clear()
            self._begun_bytes, self._too_long = 0, False
        self.count += 1
        text = piece.removesuffix(self._ending)
        if self.count == 1:
            text = text.removeprefix(BYTE_ORDER_MARK)
        too_long = too_long or len(text) > MAX_LINE_BYTES
        return Line(self.count, None if too_long else text, offset)
