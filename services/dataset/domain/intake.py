"""The bytes of an upload → the canonical file of its examples, or its rejection.

Synchronous and for one thread at a time, so that it can run beside the event loop.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from services.chat.conversation import Content
from services.dataset.domain import canonical
from services.dataset.domain.canonical import CanonicalWriter
from services.dataset.domain.containers.choices import ContainerKind, PackingChoice
from services.dataset.domain.containers.entries import Broken, Entry, Record
from services.dataset.domain.containers.opening import Opening
from services.dataset.domain.errors import EmptyUpload, LineFault, Rejection, UploadRejected
from services.dataset.domain.flaws import BadLine, Flaw, FlawCode
from services.dataset.domain.formats import chatml, plain_text
from services.dataset.domain.formats.catalogue import FORMATS, ReadRow, Shape, format_of
from services.dataset.domain.formats.rows import Row, require_object
from services.dataset.domain.lines import MAX_LINE_BYTES
from services.dataset.domain.resources import SourceFormat
from services.dataset.domain.strict_json import parse

MAX_FAULTS_KEPT = 100
MAX_FAULTS_COUNTED = 1_000_000
"""Behind so many nothing more is read."""
DEFAULT_LIMIT_BYTES = 8 * 1024**3

_TOO_LONG = Flaw(FlawCode.LINE_TOO_LONG, f"a line may have {MAX_LINE_BYTES} bytes")


class Sink(Protocol):
    """Takes the bytes of an upload."""

    def feed(self, chunk: bytes) -> None: ...


class Source:
    """What was received, without a look into it."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def feed(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        self._hash.update(chunk)


class Faults:
    """The first faults of an upload, and the count of all."""

    def __init__(self) -> None:
        self.count = 0
        self.kept: list[LineFault] = []

    def add(self, line: int, flaws: Iterable[Flaw], offset: int | None = None) -> None:
        for flaw in flaws:
            self.count += 1
            if len(self.kept) < MAX_FAULTS_KEPT:
                self.kept.append(LineFault(line, flaw.code, flaw.pointer, flaw.message, offset))


@dataclass(frozen=True)
class Examined:
    """An upload that is good, and the canonical file of its examples."""

    digest: str
    size_bytes: int
    example_count: int
    source_format: SourceFormat


class Intake:
    """Checks every row and writes the canonical file to `file`, up to the first fault: from then on
    it only looks for more. Memory: one row, one row group, the faults kept, and what `Opening`
    takes.

    `limit_bytes` is how much a compressed upload may hold.
    """

    def __init__(
        self,
        shape: Shape | None,
        file: BinaryIO,
        spool_dir: Path | None = None,
        choice: PackingChoice | None = None,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
    ) -> None:
        choice = choice or PackingChoice()
        if choice.container is ContainerKind.DOCUMENT:
            shape = Shape(SourceFormat.TEXT)
        self._shape = shape
        self._file = file
        self._opening = Opening(choice, _columns(shape), limit_bytes, spool_dir)
        self._writer = CanonicalWriter(file, spool_dir)
        self._faults = Faults()
        self._read: ReadRow | None = shape.reader() if shape else None
        self._are_chatml: bool | None = None

    def feed(self, chunk: bytes) -> None:
        """Raises DecompressedTooLarge."""
        if self._faults.count < MAX_FAULTS_COUNTED:
            self._take(self._opening.feed(chunk))

    def close(self) -> None:
        """Lets go of the file, whatever is in it."""
        self._opening.close()
        self._writer.abandon()

    def end(self) -> Examined:
        """Completes the file. Raises UploadRejected, EmptyUpload, DecompressedTooLarge."""
        if self._faults.count < MAX_FAULTS_COUNTED:
            self._take(self._opening.end())
        self._writer.close()
        if self._faults.count:
            kept = tuple(self._faults.kept)
            raise UploadRejected(Rejection(kept, self._faults.count, self._opening.count))
        if self._shape is None or not self._writer.example_count:
            raise EmptyUpload
        digest = canonical.digest(self._file)
        return Examined(digest, self._file.tell(), self._writer.example_count, self._shape.format)

    def _take(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            try:
                row = row_of(entry)
                if row is None:
                    continue
                content = (self._read or self._settle_shape(row))(row)
                self._require_alike(content)
            except BadLine as bad:
                self._faults.add(entry.number, bad.flaws, entry.offset)
            else:
                if not self._faults.count:
                    self._writer.append(content)
            if self._faults.count >= MAX_FAULTS_COUNTED:
                return

    def _require_alike(self, content: Content) -> None:
        """A text that is a conversation in ChatML stands among others of its kind only: else its
        marks, and what the user says, would be learnt. Raises BadLine."""
        if not isinstance(content, str):
            return
        is_chatml = chatml.begins({plain_text.TEXT: content})
        if self._are_chatml is None:
            self._are_chatml = is_chatml
        elif self._are_chatml is not is_chatml:
            text = "is ChatML, and the rows before are not, or the other way round"
            raise BadLine(Flaw(FlawCode.MIXED_FORMATS, text))

    def _settle_shape(self, row: Row) -> ReadRow:
        """The first row that can be read says in which format all are."""
        self._shape = Shape(format_of(row))
        self._read = self._shape.reader()
        return self._read


def row_of(entry: Entry) -> Row | None:
    """None for a blank line. Raises BadLine for one that holds no row."""
    if isinstance(entry, Record):
        return entry.row
    if isinstance(entry, Broken):
        raise BadLine(*entry.flaws)
    if entry.text is None:
        raise BadLine(_TOO_LONG)
    if not entry.text or entry.text.isspace():
        return None
    return require_object(parse(entry.text))


def _columns(shape: Shape | None) -> list[str] | None:
    """Those that a caller wants who names any; None: all that there are."""
    if shape is None or not shape.columns:
        return None
    return [shape.columns.get(name, name) for name in FORMATS[shape.format].fields]
