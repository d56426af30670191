"""The canonical Parquet file: the one form in which examples are kept.

All of a file are conversations, or preferences, or plain texts, in the form that has room for them
all (see `layouts`). The same examples in the same order give the same bytes: row groups are cut by
what the examples hold, never by how they arrived, and nothing of time or place is written. So the
file's sha256 is the identity of the examples. (Another release of pyarrow may write other bytes for
them: then the same examples make a new version once.)
"""

import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from services.chat.conversation import Content
from services.dataset.domain.layouts import (
    CONTENT_OF,
    Columns,
    Layout,
    has_room,
    layout_of,
)

ROW_GROUP_EXAMPLES = 4096
ROW_GROUP_CHARACTERS = 8 * 1024 * 1024
"""A row group ends with the example that reaches one of the two: one is held in memory at a time.
They are part of the format: another value gives the same examples another digest."""

_WRITING: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "2.0",
    "compression": "zstd",
    "compression_level": 3,
    "write_statistics": False,
    "write_page_checksum": True,
    "store_schema": False,
}

_PIECE_BYTES = 1024 * 1024
_TAIL_BYTES = 8
_MAGIC = b"PAR1"
_UNREADABLE = (OSError, ValueError, pa.ArrowException)


class CanonicalWriter:
    """Writes examples to `file`, which stays open. Not for several threads at once.

    `spool_dir` is for a second file, made for a while when an example needs a form with more room
    than those before it.
    """

    def __init__(self, file: BinaryIO, spool_dir: Path | None = None) -> None:
        self.example_count = 0
        self._file = file
        self._spool_dir = spool_dir
        self._rows: _Rows | None = None

    def append(self, content: Content) -> None:
        """The first example says what all are; raises TypeError for one of the other kind."""
        if self._rows is None:
            self._rows = _Rows(self._file, layout_of(content))
        elif not self._rows.has_room_for(content):
            self._rows = self._rows.written_anew(layout_of(content), self._spool_dir)
        self._rows.add(content)
        self.example_count += 1

    def close(self) -> None:
        """Completes the file. Without an example there is none."""
        if self._rows is not None:
            self._rows.flush()
            self._rows.parquet.close()
        self._file.flush()

    def abandon(self) -> None:
        """Lets go of a file that nobody wants, quickly. After `close` it does nothing."""
        if self._rows is not None:
            self._rows.parquet.close()


class _Rows:
    """A file of a known layout that is being written, and its row group in the making."""

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        self._file = file
        self._layout = layout
        self._columns: Columns = layout()
        writing: dict[str, Any] = {**_WRITING, "use_dictionary": layout.DICTIONARIES}
        self.parquet = pq.ParquetWriter(file, layout.SCHEMA, **writing)

    def has_room_for(self, content: Content) -> bool:
        return has_room(self._layout, content)

    def written_anew(self, layout: Layout, spool_dir: Path | None) -> "_Rows":
        """The same examples in a file of another form, as if it had been that from the start."""
        self.flush()
        self.parquet.close()
        with tempfile.TemporaryFile(dir=spool_dir) as before:
            _move(self._file, before)
            rows = _Rows(self._file, layout)
            for content in _contents(before):
                rows.add(content)
        return rows

    def add(self, content: Content) -> None:
        self._columns.add(content)
        full = self._columns.characters >= ROW_GROUP_CHARACTERS
        if full or self._columns.count == ROW_GROUP_EXAMPLES:
            self.flush()

    def flush(self) -> None:
        columns, self._columns = self._columns, self._layout()
        if columns.count:
            self.parquet.write_batch(columns.batch(), row_group_size=ROW_GROUP_EXAMPLES)


def _move(source: BinaryIO, destination: BinaryIO) -> None:
    """Leaves `source` empty."""
    source.seek(0)
    shutil.copyfileobj(source, destination, _PIECE_BYTES)
    source.seek(0)
    source.truncate()


def _contents(file: BinaryIO) -> Iterator[Content]:
    """What the examples of a canonical file hold, one row group of them in memory at a time."""
    parquet = pq.ParquetFile(file, pre_buffer=False)
    content_of = CONTENT_OF[_column(parquet.metadata)]
    for index in range(parquet.num_row_groups):
        yield from map(content_of, parquet.read_row_group(index).column(0).to_pylist())


def digest(file: BinaryIO) -> str:
    """The sha256 of a whole file, in hexadecimal digits."""
    sha256 = hashlib.sha256()
    file.seek(0)
    while piece := file.read(_PIECE_BYTES):
        sha256.update(piece)
    return sha256.hexdigest()


class Damaged(Exception):
    """The bytes are not those of a canonical file."""


@dataclass(frozen=True)
class RowGroup:
    """Where a row group lies: its examples among all, and its bytes in the file."""

    index: int
    first_example: int
    example_count: int
    offset: int
    size_bytes: int


class CanonicalReader:
    """Reads a canonical file a row group at a time, from the footer and that group's bytes."""

    def __init__(self, footer: bytes) -> None:
        """`footer` is the end of the file, `footer_bytes` of it or more. Raises Damaged."""
        try:
            self._metadata = pq.read_metadata(pa.BufferReader(footer))
            self._column = _column(self._metadata)
        except _UNREADABLE as error:
            raise Damaged from error
        self.groups = tuple(_row_groups(self._metadata))

    @staticmethod
    def footer_bytes(tail: bytes) -> int:
        """How many bytes at the file's end are its footer, by its last 8 bytes. Raises Damaged."""
        if tail[-len(_MAGIC) :] != _MAGIC:
            raise Damaged
        return _TAIL_BYTES + int.from_bytes(tail[-_TAIL_BYTES : -len(_MAGIC)], "little")

    def read(
        self, group: RowGroup, content: bytes, start: int = 0, count: int | None = None
    ) -> Sequence[Content]:
        """The examples of a group from its bytes, or up to `count` of them from the place `start`
        in the group on. Raises Damaged."""
        file = pa.PythonFile(_Excerpt(group.offset, content), mode="r")
        try:
            parquet = pq.ParquetFile(
                file, metadata=self._metadata, page_checksum_verification=True, pre_buffer=False
            )
            table = parquet.read_row_group(group.index)
        except _UNREADABLE as error:
            raise Damaged from error
        content_of = CONTENT_OF[self._column]
        return [
            content_of(row) for row in table.slice(start, count).column(self._column).to_pylist()
        ]


def _column(metadata: Any) -> str:
    """The name of the one column. Raises Damaged."""
    match metadata.schema.to_arrow_schema().names:
        case [name] if name in CONTENT_OF:
            return name
        case _:
            raise Damaged


def _row_groups(metadata: Any) -> Iterator[RowGroup]:
    first = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = [group.column(at) for at in range(group.num_columns)]
        offset = min(column.dictionary_page_offset or column.data_page_offset for column in columns)
        size_bytes = sum(column.total_compressed_size for column in columns)
        yield RowGroup(index, first, group.num_rows, offset, size_bytes)
        first += group.num_rows


class _Excerpt(io.BytesIO):
    """A file of which only the bytes from `offset` on can be read. It ends with the excerpt."""

    def __init__(self, offset: int, content: bytes) -> None:
        super().__init__(content)
        self._offset = offset

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_SET:
            offset -= self._offset
        return super().seek(offset, whence) + self._offset

    def tell(self) -> int:
        return super().tell() + self._offset
