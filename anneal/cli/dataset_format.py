"""How a file is read: what the service has found out about it, shown and agreed to."""

import sys
from pathlib import Path

import typer

from anneal.client import Client
from anneal.dataset.v1.dataset_pb2 import (
    CONTAINER_DOCUMENT,
    DESCRIPTOR,
    SOURCE_FORMAT_UNSPECIFIED,
    DatasetFormat,
    SourceFormat,
)
from anneal.dataset.v1.dataset_service_pb2 import DocumentChunks
from anneal.enums import number_of, word_of

_MEANINGFUL = frozenset(
    {
        "chosen",
        "context",
        "functions",
        "history",
        "kto_tag",
        "label",
        "rating",
        "rejected",
        "score",
        "system",
        "system_prompt",
        "tools",
        "weight",
    }
)
"""Columns that nobody drops by a nod."""
_DOCUMENT_KIND = DESCRIPTOR.enum_types_by_name["DocumentKind"]
_FORMAT = DESCRIPTOR.enum_types_by_name["SourceFormat"]


def format_named(word: str) -> SourceFormat.ValueType:
    """`prompt-completion` and so on; empty is for the service to find out. Raises
    typer.BadParameter."""
    if not word:
        return SOURCE_FORMAT_UNSPECIFIED
    try:
        return SourceFormat.ValueType(number_of(_FORMAT, word.replace("-", "_").upper()))
    except KeyError as error:
        known = [_word(number) for number in _FORMAT.values_by_number if number]
        raise typer.BadParameter(f"formats are {', '.join(known)}") from error


def columns_named(pairs: list[str]) -> dict[str, str]:
    """`prompt=question` and so on. Raises typer.BadParameter."""
    columns: dict[str, str] = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not (field and equals and column):
            raise typer.BadParameter(f"{pair!r} must be a field, = and a column")
        columns[field] = column
    return columns


def agreed_format(client: Client, file: Path, *, yes: bool) -> DatasetFormat:
    """What the service proposes for the file. Where columns would be renamed or dropped that is
    shown, and the caller has to agree; the first fault is shown at once. Raises typer.BadParameter
    where a column would be dropped without which the rows say something else."""
    found = client.datasets.detect(file)
    for fault in found.faults[:1]:
        place = f"line {fault.line}{f' at {fault.pointer}' if fault.pointer else ''}"
        print(f"{place}: {fault.code}, {fault.message}", file=sys.stderr, flush=True)
    if found.container == CONTAINER_DOCUMENT or (found.columns and found.readable_count):
        print(*_proposal(found), sep="\n", file=sys.stderr)
        _refuse_doubtful(found)
        if not yes:
            typer.confirm("Read it so?", default=True, abort=True, err=True)
    return found


def _refuse_doubtful(found: DatasetFormat) -> None:
    doubtful = sorted(set(found.dropped_columns) & _MEANINGFUL)
    if doubtful:
        raise typer.BadParameter(
            f"without {', '.join(doubtful)} the rows may say something else; name the columns that "
            "are wanted with --format and --column if not"
        )


def document_of(found: DatasetFormat) -> DocumentChunks | None:
    """How it is split, if it is a document."""
    if found.container != CONTAINER_DOCUMENT:
        return None
    return DocumentChunks(kind=found.document_kind)


def _proposal(found: DatasetFormat) -> list[str]:
    if found.container == CONTAINER_DOCUMENT:
        return [f"a document ({_kind(found)}): split into chunks of plain text"]
    readable = f"{found.readable_count} of the first {found.row_count} rows can be read so"
    lines = [f"format: {_word(found.format)} ({readable})"]
    lines += [f"  {field} ← column {column}" for field, column in sorted(found.columns.items())]
    if found.dropped_columns:
        lines.append(f"  dropped: {', '.join(found.dropped_columns)}")
    return lines


def _kind(found: DatasetFormat) -> str:
    return word_of(_DOCUMENT_KIND, found.document_kind).lower()


def _word(number: int) -> str:
    return word_of(_FORMAT, number).replace("_", "-").lower()
