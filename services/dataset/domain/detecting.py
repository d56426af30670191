"""Looks at the beginning of a file before it is uploaded."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from services.dataset.domain.containers.choices import ContainerKind, DocumentKind, PackingChoice
from services.dataset.domain.containers.entries import Entry
from services.dataset.domain.containers.opening import Opening
from services.dataset.domain.containers.parquet import column_names
from services.dataset.domain.contents import Example
from services.dataset.domain.errors import (
    ChunkTooLarge,
    DecompressedTooLarge,
    EmptyUpload,
    LineFault,
)
from services.dataset.domain.flaws import BadLine
from services.dataset.domain.formats.catalogue import ReadRow
from services.dataset.domain.formats.detection import Proposal, propose, propose_by_columns
from services.dataset.domain.formats.rows import Row
from services.dataset.domain.intake import Faults, row_of

MAX_HEAD_BYTES = 1024 * 1024
SAMPLE_EXAMPLES = 3
MAX_ROWS = 200

_UNPACKED_LIMIT_BYTES = MAX_HEAD_BYTES
"""What is compressed is looked at up to there: it could be anything, and is held parsed."""
_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Detected:
    """What the beginning of a file tells: what it is packed in, how its rows are best read, the
    first examples of it, and what is wrong with the rows that are none.

    Of a document, and of a Parquet file that is compressed, only the container is told. `container`
    None: it is none that we know.
    """

    container: ContainerKind | None
    document: DocumentKind | None = None
    proposal: Proposal | None = None
    examples: tuple[Example, ...] = ()
    faults: tuple[LineFault, ...] = ()


def detect(head: bytes, tail: bytes, file_name: str, *, complete: bool) -> Detected:
    """Looks at up to MAX_ROWS rows; of a Parquet file at the names of its columns, which are in its
    `tail`. Raises ChunkTooLarge, and EmptyUpload if there is no row."""
    for part in (head, tail):
        if len(part) > MAX_HEAD_BYTES:
            raise ChunkTooLarge(len(part), MAX_HEAD_BYTES)
    if head.startswith(_PARQUET_MAGIC):
        return Detected(ContainerKind.PARQUET, proposal=propose_by_columns(column_names(tail)))
    document = _document_named(file_name)
    if document is not None and not _is_of_rows(head, document):
        return Detected(ContainerKind.DOCUMENT, document)
    faults = Faults()
    opening = Opening(_named(file_name), None, _UNPACKED_LIMIT_BYTES, None)
    rows = list(_rows(opening, head, faults, complete=complete))
    if not rows and not faults.count:
        if opening.kind is ContainerKind.PARQUET:
            return Detected(ContainerKind.PARQUET)
        raise EmptyUpload
    proposal = propose([row for _, row, _ in rows])
    examples = tuple(_examples(rows, proposal.shape.reader(), faults))
    in_order = sorted(faults.kept, key=lambda fault: fault.line)
    return Detected(opening.kind, None, proposal, examples[:SAMPLE_EXAMPLES], tuple(in_order))


def _document_named(file_name: str) -> DocumentKind | None:
    ending = PurePath(file_name).suffix.lower().removeprefix(".")
    known = {kind.value: kind for kind in DocumentKind} | {"htm": DocumentKind.HTML}
    return known.get(ending)


def _is_of_rows(head: bytes, document: DocumentKind) -> bool:
    """Whether a text file begins like rows, whatever its name says."""
    return document is DocumentKind.TXT and head.lstrip()[:1] in (b"{", b"[")


def _named(file_name: str) -> PackingChoice:
    """Of a table of one column only the name tells that it is one."""
    endings = [ending.lower() for ending in PurePath(file_name).suffixes]
    if any(ending in (".csv", ".tsv") for ending in endings):
        return PackingChoice(ContainerKind.CSV)
    return PackingChoice()


_Found = tuple[int, Row, int | None]
"""A row with its number and its offset."""


def _rows(opening: Opening, head: bytes, faults: Faults, *, complete: bool) -> Iterator[_Found]:
    """But for one that is cut off."""
    count = 0
    for entry in _entries(opening, head, complete=complete):
        try:
            row = row_of(entry)
        except BadLine as bad:
            faults.add(entry.number, bad.flaws, entry.offset)
            continue
        if row is None:
            continue
        yield entry.number, row, entry.offset
        count += 1
        if count == MAX_ROWS:
            return


def _entries(opening: Opening, head: bytes, *, complete: bool) -> Iterator[Entry]:
    try:
        yield from opening.feed(head)
        if complete:
            yield from opening.end()
    except DecompressedTooLarge:
        return  # enough has been seen
    finally:
        opening.close()


def _examples(rows: list[_Found], read: ReadRow, faults: Faults) -> Iterator[Example]:
    count = 0
    for number, row, offset in rows:
        try:
            yield Example(count, read(row))
            count += 1
        except BadLine as bad:
            faults.add(number, bad.flaws, offset)
