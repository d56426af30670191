"""The canonical Parquet file: the one form in which examples are kept.

The same examples in the same order give the same bytes: row groups are cut by what the examples
hold, never by how they arrived, and nothing of time or place is written. So the file's sha256 is
the identity of the examples. (Another release of pyarrow may write other bytes for them: then the
same examples make a new version once.)
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from services.chat.conversation import Conversation, Message, Role

ROW_GROUP_EXAMPLES = 4096
ROW_GROUP_CHARACTERS = 8 * 1024 * 1024
"""A row group ends with the example that reaches one of the two: one is held in memory at a time.
They are part of the format: another value gives the same examples another digest."""

_COLUMN = "messages"
_TURN = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("train", pa.bool_(), nullable=False),
    ]
)
_CONVERSATION = pa.list_(pa.field("element", _TURN, nullable=False))
SCHEMA = pa.schema([pa.field(_COLUMN, _CONVERSATION, nullable=False)])

_LAYOUT: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "2.0",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": [f"{_COLUMN}.list.element.role"],
    "write_statistics": False,
    "write_page_checksum": True,
    "store_schema": False,
}

_PIECE_BYTES = 1024 * 1024
_TAIL_BYTES = 8
_MAGIC = b"PAR1"
_UNREADABLE = (OSError, ValueError, pa.ArrowException)


@dataclass
class _Columns:
    """A row group in the making. `offsets` says where each conversation ends."""

    offsets: list[int] = field(default_factory=lambda: [0])
    roles: list[str] = field(default_factory=list[str])
    contents: list[str] = field(default_factory=list[str])
    train: list[bool] = field(default_factory=list[bool])
    characters: int = 0

    def add(self, conversation: Conversation) -> None:
        for message in conversation:
            self.roles.append(message.role.value)
            self.contents.append(message.content)
            self.train.append(message.train)
            self.characters += len(message.content)
        self.offsets.append(len(self.roles))

    @property
    def count(self) -> int:
        return len(self.offsets) - 1

    def batch(self) -> Any:
        """The row group as an Arrow record batch."""
        turns = pa.StructArray.from_arrays(
            [
                pa.array(self.roles, pa.string()),
                pa.array(self.contents, pa.string()),
                pa.array(self.train, pa.bool_()),
            ],
            fields=list(_TURN),
        )
        offsets = pa.array(self.offsets, pa.int32())
        lists = pa.ListArray.from_arrays(offsets, turns, type=_CONVERSATION)
        return pa.record_batch([lists], schema=SCHEMA)


class CanonicalWriter:
    """Writes examples to `file`, which stays open. Not for several threads at once."""

    def __init__(self, file: BinaryIO) -> None:
        self.example_count = 0
        self._file = file
        self._columns = _Columns()
        self._parquet = pq.ParquetWriter(file, SCHEMA, **_LAYOUT)

    def append(self, conversation: Conversation) -> None:
        self.example_count += 1
        self._columns.add(conversation)
        full = self._columns.characters >= ROW_GROUP_CHARACTERS
        if full or self._columns.count == ROW_GROUP_EXAMPLES:
            self._flush()

    def close(self) -> None:
        """Completes the file."""
        if self._columns.count:
            self._flush()
        self._parquet.close()
        self._file.flush()

    def abandon(self) -> None:
        """Lets go of a file that nobody wants, quickly. After `close` it does nothing."""
        self._columns = _Columns()
        self._parquet.close()

    def _flush(self) -> None:
        columns, self._columns = self._columns, _Columns()
        self._parquet.write_batch(columns.batch(), row_group_size=ROW_GROUP_EXAMPLES)


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
    ) -> Sequence[Conversation]:
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
        rows = cast(
            "list[list[dict[str, Any]]]", table.slice(start, count).column(_COLUMN).to_pylist()
        )
        return [_conversation(turns) for turns in rows]


def _row_groups(metadata: Any) -> Iterator[RowGroup]:
    first = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = [group.column(at) for at in range(group.num_columns)]
        offset = min(column.dictionary_page_offset or column.data_page_offset for column in columns)
        size_bytes = sum(column.total_compressed_size for column in columns)
        yield RowGroup(index, first, group.num_rows, offset, size_bytes)
        first += group.num_rows


def _conversation(turns: list[dict[str, Any]]) -> Conversation:
    return tuple(Message(Role(turn["role"]), turn["content"], turn["train"]) for turn in turns)


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
