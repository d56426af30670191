"""The rows of a Parquet file, some at a time, as JSON texts."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.dataset.domain.containers.reading import Reading, Unreadable, flaw_line
from services.dataset.domain.flaws import Flaw, FlawCode

_BATCH_ROWS = 64
_BUFFER_BYTES = 64 * 1024
_UNREADABLE = (OSError, ValueError, pa.ArrowException)
_SCALARS = (
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_string,
    pa.types.is_large_string,
)


def rows(reading: Reading) -> Iterator[bytes]:
    """A row after the other, or a flaw in its place. A field that is null is one that is not there:
    a table gives every row all fields. Raises Unreadable, MemoryError."""
    try:
        file = pq.ParquetFile(reading.path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        columns = _columns(file.schema_arrow, reading.columns)
        batches = file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)
        for batch in batches:
            yield from _batch_rows(batch)
    except MemoryError:
        raise
    except _UNREADABLE as error:
        text = "it is no Parquet file, or damaged, or cut off; upload the whole file"
        raise Unreadable(FlawCode.CONTAINER_DAMAGED, text) from error


def column_names(tail: bytes) -> list[str]:
    """Those that the end of a file tells of; none if it is too short for that."""
    try:
        return list(pq.read_schema(pa.BufferReader(tail)).names)
    except _UNREADABLE:
        return []


def _columns(schema: Any, wanted: Sequence[str] | None) -> list[str]:
    """The columns to read. Raises Unreadable for one that holds what no row can."""
    names = [name for name in schema.names if wanted is None or name in wanted]
    for name in names:
        if names.count(name) > 1:
            raise Unreadable(FlawCode.DUPLICATE_COLUMN, "two columns have this name", name)
        kind = _strange(schema.field(name).type)
        if kind is not None:
            text = f"{kind} is no type of a row's value; write it as text or leave it out"
            raise Unreadable(FlawCode.COLUMN_TYPE, text, name)
    return names


def _strange(kind: Any) -> Any:
    """The type in it that is none of JSON's, if there is any."""
    if any(is_kind(kind) for is_kind in _SCALARS):
        return None
    if pa.types.is_dictionary(kind):
        return _strange(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _strange(kind.value_type)
    if pa.types.is_struct(kind):
        inner = (_strange(field.type) for field in kind)
        return next((found for found in inner if found is not None), None)
    return kind


def _batch_rows(batch: Any) -> Iterator[bytes]:
    for index in range(batch.num_rows):
        try:
            row = batch.slice(index, 1).to_pylist()[0]
            yield json.dumps(_present(row), ensure_ascii=False).encode()
        except UnicodeDecodeError:
            text = "a string of this row is not valid UTF-8"
            yield flaw_line(Flaw(FlawCode.NOT_UTF8, text))


def _present(value: Any) -> Any:
    """The value without fields that are null."""
    if isinstance(value, dict):
        return {key: _present(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_present(inner) for inner in value]
    return value
