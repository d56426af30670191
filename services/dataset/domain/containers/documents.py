"""Documents as plain texts, for continued pretraining."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from services.dataset.domain.containers.choices import DocumentKind
from services.dataset.domain.containers.chunks import chunks
from services.dataset.domain.containers.reading import Reading, Unreadable
from services.dataset.domain.flaws import FlawCode
from services.dataset.domain.formats.plain_text import TEXT

Extract = Callable[[Path], Iterator[str]]
"""The text of a file in pieces. Headings are lines that begin with #, paragraphs have a blank line
between them. Raises Unreadable."""

PIECE_CHARACTERS = 64 * 1024
_HEAD_BYTES = 1024
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
HTML_BEGINNINGS = (b"<!doctype html", b"<html")
PDF_MAGIC, ZIP_MAGIC = b"%PDF-", b"PK\x03\x04"


def rows(reading: Reading, extract: Extract) -> Iterator[bytes]:
    """A row a chunk."""
    choice = reading.document
    pieces = extract(Path(reading.path))
    for chunk in chunks(pieces, choice.chunk_characters, choice.overlap_characters):
        yield json.dumps({TEXT: chunk}, ensure_ascii=False).encode()


def extractor(reading: Reading) -> Extract:
    """What reads such a document. Raises Unreadable for one whose first bytes belie its kind."""
    with Path(reading.path).open("rb") as file:
        head = file.read(_HEAD_BYTES)
    found = _kind_of(head)
    kind = reading.document.kind or found or DocumentKind.TXT
    binary = (DocumentKind.PDF, DocumentKind.DOCX)
    if kind is not found and (kind in binary or found in binary):
        text = f"it is {'a' if found else 'no'} {found or kind} file, whatever its name says"
        raise Unreadable(FlawCode.CONTAINER_DAMAGED, text)
    if kind is DocumentKind.PDF:
        from services.dataset.domain.containers import pdf

        return pdf.pieces
    if kind is DocumentKind.DOCX:
        from services.dataset.domain.containers import word

        return word.pieces
    if kind is DocumentKind.HTML:
        from services.dataset.domain.containers import web_page

        return lambda path: web_page.pieces(plain_pieces(path))
    return plain_pieces


def plain_pieces(path: Path) -> Iterator[str]:
    """The text of a text file."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            while piece := file.read(PIECE_CHARACTERS):
                if "\0" in piece:
                    raise Unreadable(FlawCode.NOT_TEXT, "it holds NUL bytes: it is no text file")
                yield piece
    except UnicodeDecodeError as error:
        text = "the document is not valid UTF-8; save it as UTF-8"
        raise Unreadable(FlawCode.NOT_UTF8, text) from error


def _kind_of(head: bytes) -> DocumentKind | None:
    if head.startswith(PDF_MAGIC):
        return DocumentKind.PDF
    if head.startswith(ZIP_MAGIC):
        return DocumentKind.DOCX
    if head.lstrip().lower().startswith(HTML_BEGINNINGS):
        return DocumentKind.HTML
    return None
