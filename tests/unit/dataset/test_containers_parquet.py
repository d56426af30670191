"""Parquet files: rows by their number, types that no row can hold, and little memory."""

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.dataset.domain.containers import parquet
from services.dataset.domain.containers.choices import ContainerKind, DocumentChoice
from services.dataset.domain.containers.entries import Broken
from services.dataset.domain.containers.reading import Reading, Unreadable
from services.dataset.domain.containers.spooled import READER, Spooled
from services.dataset.domain.formats.catalogue import Shape
from services.dataset.domain.lines import MAX_LINE_BYTES, Line
from services.dataset.domain.resources import SourceFormat
from tests.unit.dataset.uploading import examples, faults, outcome

ROWS = [{"prompt": f"{number}?", "completion": "é"} for number in range(200)]


def written(table: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(table) if isinstance(table, list) else table, file, **options
    )
    return file.getvalue()


def read(tmp_path: Path, table: Any, columns: list[str] | None = None) -> list[Any]:
    """The rows in this process, where no memory is limited."""
    path = tmp_path / "rows.parquet"
    path.write_bytes(written(table))
    reading = Reading(str(path), ContainerKind.PARQUET, DocumentChoice(), columns)
    return [json.loads(row.removeprefix(b"!")) for row in parquet.rows(reading)]


def lines_of(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def test_a_parquet_file_holds_what_its_lines_hold(tmp_path: Path):
    content = written(ROWS, row_group_size=70)

    assert examples(content, spool_dir=tmp_path) == examples(lines_of(ROWS))
    assert list(tmp_path.iterdir()) == []


def test_what_is_null_in_a_table_is_not_there_in_its_rows(tmp_path: Path):
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "c", "tool_call_id": "a"},
            {"role": "assistant", "content": "b", "weight": 0.5},
        ]},
    ]  # fmt: skip
    struct = pa.struct({
        "role": pa.string(),
        "content": pa.large_string(),
        "weight": pa.float32(),
        "tool_call_id": pa.dictionary(pa.int32(), pa.string()),
        "tool_calls": pa.list_(pa.struct({
            "id": pa.string(),
            "type": pa.string(),
            "function": pa.struct({"name": pa.string(), "arguments": pa.string()}),
        })),
    })  # fmt: skip
    table = pa.Table.from_pylist(rows, pa.schema({"messages": pa.large_list(struct)}))

    assert read(tmp_path, table) == rows


def test_a_fault_has_its_rows_number_and_no_offset():
    rows = [*ROWS[:100], {"prompt": "a", "completion": ""}, {"prompt": "a"}]

    found = faults(written(rows))

    assert [(fault.line, fault.code.value, fault.byte_offset) for fault in found] == [
        (101, "EMPTY", None),
        (102, "MISSING_FIELD", None),
    ]


def test_a_row_that_no_line_could_hold_is_named(tmp_path: Path):
    table = pa.table({"text": ["a", "x" * MAX_LINE_BYTES, "b"]})

    assert outcome(written(table)) == [(2, "LINE_TOO_LONG")]


def test_a_string_that_is_not_utf8_is_named(tmp_path: Path):
    strange = pa.array([b"a", b"\xff", b"b"]).cast(pa.string(), safe=False)

    assert read(tmp_path, pa.table({"text": strange}))[1][0] == "NOT_UTF8"


def test_a_number_that_is_none_is_named():
    table = pa.table({"prompt": ["a"], "completion": ["b"], "weight": [float("nan")]})

    assert outcome(written(table)) == [(1, "NOT_A_FINITE_NUMBER")]


@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("ms"),
        pa.binary(),
        pa.decimal128(5),
        pa.map_(pa.string(), pa.string()),
        pa.list_(pa.struct({"a": pa.date32()})),
    ],
    ids=str,
)
def test_a_type_that_no_row_can_hold_is_named_with_its_column(tmp_path: Path, kind: Any):
    table = pa.table({"text": ["a"], "strange": pa.array([None], kind)})

    with pytest.raises(Unreadable) as caught:
        read(tmp_path, table)

    assert (caught.value.flaw.code, caught.value.flaw.path) == ("COLUMN_TYPE", ("strange",))
    assert read(tmp_path, table, ["text"]) == [{"text": "a"}]


def test_columns_that_nobody_wants_are_not_looked_at():
    table = pa.table({"id": pa.array([b"1"]), "q": ["a"], "a": ["b"]})
    shape = Shape(SourceFormat.PROMPT_COMPLETION, {"prompt": "q", "completion": "a"})

    assert outcome(written(table), shape=shape) == 1


def test_two_columns_of_a_name_are_a_fault(tmp_path: Path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])

    with pytest.raises(Unreadable, match="DUPLICATE_COLUMN"):
        read(tmp_path, table)


@pytest.mark.parametrize("keep", [4, 8, 200, -1, -8, -100])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, keep: int):
    path = tmp_path / "rows.parquet"
    path.write_bytes(written(ROWS)[:keep])

    with pytest.raises(Unreadable, match="CONTAINER_DAMAGED"):
        list(parquet.rows(Reading(str(path), ContainerKind.PARQUET, DocumentChoice())))


def test_a_damaged_page_is_named():
    content = bytearray(written(ROWS, compression="zstd"))
    content[40:60] = bytes(20)

    assert outcome(bytes(content))[-1][1] == "CONTAINER_DAMAGED"


def read_apart(tmp_path: Path, content: bytes, memory_bytes: int) -> list[bytes]:
    """The reader's lines."""
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    document = DocumentChoice()
    reading = Reading(str(path), ContainerKind.PARQUET, document, None, memory_bytes)
    read = subprocess.run([*READER, reading.told()], capture_output=True, check=True)
    return read.stdout.splitlines()


MEBIBYTE = 1024 * 1024


def test_a_huge_row_group_is_read_in_little_memory(tmp_path: Path):
    texts = [f"{number} " + "blue " * 1000 for number in range(8000)]
    content = written(pa.table({"text": texts}), use_dictionary=False, row_group_size=8000)

    assert len(read_apart(tmp_path, content, 32 * MEBIBYTE)) == 8000


def test_a_page_too_large_for_the_reader_is_named(tmp_path: Path):
    table = pa.table({"text": ["x" * 40 * MEBIBYTE]})
    content = written(table, use_dictionary=False, compression="zstd", write_statistics=False)

    assert len(content) < MEBIBYTE
    [line] = read_apart(tmp_path, content, 32 * MEBIBYTE)
    assert line.startswith(b'!["CONTAINER_TOO_LARGE"')


def test_a_reader_that_is_stopped_is_an_upload_that_is_refused(tmp_path: Path):
    stopped = (READER[0], "-c", "import os; print('{}', flush=True); os.abort()")
    document = DocumentChoice()
    upload = Spooled(ContainerKind.PARQUET, document, None, 2**30, tmp_path, stopped)

    first, last = upload.end()
    upload.close()

    assert first == Line(1, b"{}", None)
    assert isinstance(last, Broken)
    assert (last.number, last.flaws[0].code) == (2, "CONTAINER_TOO_LARGE")


def test_what_a_small_file_stands_for_is_limited():
    content = written(pa.table({"text": ["x" * 1000] * 10_000}))

    assert len(content) < 10_000
    assert outcome(content, limit_bytes=1_000_000) == "DECOMPRESSED_TOO_LARGE"


def test_the_reader_ends_with_the_upload(tmp_path: Path):
    others = set(psutil.Process().children())
    upload = Spooled(ContainerKind.PARQUET, DocumentChoice(), None, 2**30, tmp_path)
    list(upload.feed(written(pa.table({"text": ["x" * 1000] * 10_000}))))
    entries = upload.end()
    next(entries)
    children = set(psutil.Process().children()) - others

    upload.close()
    upload.close()

    assert children
    assert not any(child.is_running() for child in children)
    assert list(tmp_path.iterdir()) == []
