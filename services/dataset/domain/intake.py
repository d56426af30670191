"""The bytes of an upload → the canonical file of its examples, or its rejection.

Synchronous and for one thread at a time, so that it can run beside the event loop.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from services.dataset.domain import canonical
from services.dataset.domain.canonical import CanonicalWriter
from services.dataset.domain.errors import EmptyUpload, LineFault, Rejection, UploadRejected
from services.dataset.domain.examples import (
    ReadExample,
    TextFields,
    format_of,
    reader,
    require_object,
)
from services.dataset.domain.flaws import BadLine, Flaw, FlawCode
from services.dataset.domain.lines import MAX_LINE_BYTES, Line, LineSplitter
from services.dataset.domain.resources import SourceFormat
from services.dataset.domain.strict_json import Json, parse

MAX_FAULTS_KEPT = 100

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

    def add(self, line: int, flaws: Iterable[Flaw]) -> None:
        for flaw in flaws:
            self.count += 1
            if len(self.kept) < MAX_FAULTS_KEPT:
                self.kept.append(LineFault(line, flaw.code, flaw.pointer, flaw.message))


@dataclass(frozen=True)
class Examined:
    """An upload that is good, and the canonical file of its examples."""

    digest: str
    size_bytes: int
    example_count: int
    source_format: SourceFormat


class Intake:
    """Checks every line and writes the canonical file to `file`, up to the first fault: from then
    on it only looks for more. Memory: one line, one row group, and the faults kept."""

    def __init__(
        self,
        source_format: SourceFormat | None,
        fields: TextFields,
        file: BinaryIO,
        spool_dir: Path | None = None,
    ) -> None:
        self._fields = fields
        self._file = file
        self._lines = LineSplitter()
        self._writer = CanonicalWriter(file, spool_dir)
        self._faults = Faults()
        self._format = source_format
        self._read: ReadExample | None = reader(source_format, fields) if source_format else None

    def feed(self, chunk: bytes) -> None:
        self._take(self._lines.feed(chunk))

    def close(self) -> None:
        """Lets go of the file, whatever is in it."""
        self._writer.abandon()

    def end(self) -> Examined:
        """Completes the file. Raises UploadRejected, EmptyUpload."""
        self._take(self._lines.end())
        self._writer.close()
        if self._faults.count:
            kept = tuple(self._faults.kept)
            raise UploadRejected(Rejection(kept, self._faults.count, self._lines.count))
        if self._format is None or not self._writer.example_count:
            raise EmptyUpload
        digest = canonical.digest(self._file)
        return Examined(digest, self._file.tell(), self._writer.example_count, self._format)

    def _take(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if line.text is None:
                self._faults.add(line.number, [_TOO_LONG])
            elif line.text and not line.text.isspace():
                self._take_line(line.number, line.text)

    def _take_line(self, number: int, text: bytes) -> None:
        try:
            row = require_object(parse(text))
            content = (self._read or self._settle_format(row))(row)
        except BadLine as bad:
            self._faults.add(number, bad.flaws)
        else:
            if not self._faults.count:
                self._writer.append(content)

    def _settle_format(self, row: dict[str, Json]) -> ReadExample:
        """The first line that can be read says in which format all are."""
        self._format = format_of(row, self._fields)
        self._read = reader(self._format, self._fields)
        return self._read
