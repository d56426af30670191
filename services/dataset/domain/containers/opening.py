"""The bytes of an upload → its entries, whatever they are packed in.

What the caller does not name is told by the first bytes: a compression, and the container in it.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from services.dataset.domain.containers.choices import ContainerKind, PackingChoice
from services.dataset.domain.containers.compression import (
    GZIP_MAGIC,
    MAGIC_BYTES,
    ZSTD_MAGIC,
    Compressed,
    Plain,
    decompression,
)
from services.dataset.domain.containers.documents import HTML_BEGINNINGS, PDF_MAGIC, ZIP_MAGIC
from services.dataset.domain.containers.entries import Broken, Container, Entry, Refused
from services.dataset.domain.containers.json_array import JsonArray
from services.dataset.domain.containers.reading import Unreadable
from services.dataset.domain.containers.spooled import Spooled
from services.dataset.domain.containers.table import Table, delimiter_of
from services.dataset.domain.flaws import Flaw, FlawCode
from services.dataset.domain.lines import BYTE_ORDER_MARK, LineSplitter

MAX_HEAD_BYTES = 64 * 1024
"""By so much, or by the end of the first line, it is told what an upload is."""

_BLANK = b" \t\r\n"
_PARQUET_MAGIC = b"PAR1"
_UTF16 = (b"\xff\xfe", b"\xfe\xff", b"\0{", b"{\0", b"\0[", b"[\0")
_COLUMN_NAME = re.compile(r"\s*[^\W\d][\w .-]{0,62}\s*")
_FOREIGN = {
    PDF_MAGIC: f"a PDF file; name the container {ContainerKind.DOCUMENT}",
    ZIP_MAGIC: f"a ZIP archive; unpack it, or name the container {ContainerKind.DOCUMENT}",
    GZIP_MAGIC: "compressed twice; compress it once",
    ZSTD_MAGIC: "compressed twice; compress it once",
}
_SPOOLED = (ContainerKind.PARQUET, ContainerKind.DOCUMENT)


class Opening:
    """Opens an upload as it arrives. `columns` are the only ones that are wanted of a Parquet file;
    `limit_bytes` is how much may come out of what is compressed.

    Memory: MAX_HEAD_BYTES, what a decompressor holds, and what the container holds.
    """

    def __init__(
        self,
        choice: PackingChoice,
        columns: Sequence[str] | None,
        limit_bytes: int,
        spool_dir: Path | None,
    ) -> None:
        self._choice = choice
        self._columns = None if columns is None else tuple(columns)
        self._limit_bytes = limit_bytes
        self._spool_dir = spool_dir
        self._magic = b""
        self._head = b""
        self._decompression: Plain | Compressed | None = None
        self._container: Container | None = None
        self.kind: ContainerKind | None = None
        """None until it is told, and for what is none."""
        self._is_over = False

    @property
    def count(self) -> int:
        """How many lines, or rows where there are no lines, have been read."""
        return self._container.count if self._container else 0

    def feed(self, chunk: bytes) -> Iterator[Entry]:
        """Exhaust it before the next call. Raises DecompressedTooLarge."""
        if self._container is not None and isinstance(self._decompression, Plain):
            return self._container.feed(chunk)
        return self._open(chunk)

    def _open(self, chunk: bytes) -> Iterator[Entry]:
        if self._decompression is None:
            self._magic += chunk
            if len(self._magic) < MAGIC_BYTES:
                return
            chunk, self._magic = self._magic, b""
            self._decompression = decompression(chunk, self._limit_bytes)
        yield from self._unpacked(self._decompression, chunk)

    def end(self) -> Iterator[Entry]:
        """Raises DecompressedTooLarge."""
        if self._decompression is None:
            self._decompression = decompression(self._magic, self._limit_bytes)
            yield from self._unpacked(self._decompression, self._magic)
        try:
            self._decompression.end()
        except Unreadable as error:
            yield from self._give_up(error)
        if not self._is_over:
            if self._container is None:
                self._container = self._told(complete=True) or LineSplitter()
                yield from self._container.feed(self._head)
            yield from self._container.end()

    def close(self) -> None:
        """Lets go of files and processes."""
        if self._container is not None:
            self._container.close()

    def _unpacked(self, unpack: Plain | Compressed, chunk: bytes) -> Iterator[Entry]:
        if self._is_over:
            return
        try:
            for piece in unpack.feed(chunk):
                yield from self._read(piece)
        except Unreadable as error:
            yield from self._give_up(error)

    def _read(self, piece: bytes) -> Iterator[Entry]:
        if self._container is None:
            self._head += piece
            self._container = self._told(complete=False)
            if self._container is None:
                return
            piece, self._head = self._head, b""
        yield from self._container.feed(piece)

    def _give_up(self, error: Unreadable) -> Iterator[Entry]:
        if not self._is_over:
            self._is_over = True
            yield Broken(self.count + 1, [error.flaw], None)

    def _told(self, *, complete: bool) -> Container | None:
        """The container by its head; None if that does not say yet."""
        complete = complete or len(self._head) >= MAX_HEAD_BYTES
        kind = self._choice.container
        if kind not in _SPOOLED:
            if len(self._head) < MAGIC_BYTES and not complete:
                return None
            if self._head.startswith(_UTF16):
                text = "the file is UTF-16; save it as UTF-8"
                return Refused(0, Flaw(FlawCode.NOT_UTF8, text), offset=0)
        if kind is None:
            text = _foreign(self._head)
            if text is not None:
                return Refused(0, Flaw(FlawCode.UNKNOWN_CONTAINER, f"this is {text}"), offset=0)
            kind = kind_of(self._head, complete=complete)
        return None if kind is None else self._of(kind)

    def _of(self, kind: ContainerKind) -> Container:
        self.kind = kind
        if kind is ContainerKind.JSON_LINES:
            return LineSplitter()
        if kind is ContainerKind.JSON_ARRAY:
            return JsonArray()
        if kind is ContainerKind.CSV:
            return Table()
        document = self._choice.document
        return Spooled(kind, document, self._columns, self._limit_bytes, self._spool_dir)


def _foreign(head: bytes) -> str | None:
    """What begins so, if it holds no rows."""
    if head.lstrip(_BLANK).lower().startswith(HTML_BEGINNINGS):
        return f"a web page; name the container {ContainerKind.DOCUMENT}"
    return next((text for magic, text in _FOREIGN.items() if head.startswith(magic)), None)


def kind_of(head: bytes, *, complete: bool) -> ContainerKind | None:
    """What begins so; None if more is needed. JSON lines, whose faults are then told, for what is
    none of the containers."""
    begun = head.removeprefix(BYTE_ORDER_MARK).lstrip(_BLANK)
    if head.startswith(_PARQUET_MAGIC):
        return ContainerKind.PARQUET
    if begun.startswith(b"["):
        return ContainerKind.JSON_ARRAY
    if begun.startswith(b"{"):
        return ContainerKind.JSON_LINES
    first, ending, _ = begun.partition(b"\n")
    if not (ending or complete):
        return None
    return ContainerKind.CSV if _is_header(first) else ContainerKind.JSON_LINES


def _is_header(line: bytes) -> bool:
    """Whether it reads like the names of two columns or more."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return False
    names = text.replace('"', "").split(delimiter_of(text))
    return len(names) > 1 and all(map(_COLUMN_NAME.fullmatch, names))
