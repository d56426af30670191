"""An upload from its bytes to its examples or its faults, for the tests of what it is packed in."""

import io
import itertools
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from services.chat.conversation import Content
from services.common.faults import Fault
from services.dataset.domain.canonical import CanonicalReader
from services.dataset.domain.containers.choices import ContainerKind, DocumentChoice, PackingChoice
from services.dataset.domain.errors import LineFault, UploadRejected
from services.dataset.domain.formats.catalogue import Shape
from services.dataset.domain.intake import Intake

PIECE_BYTES = 256 * 1024


def document(*arguments: Any, **options: Any) -> PackingChoice:
    return PackingChoice(ContainerKind.DOCUMENT, DocumentChoice(*arguments, **options))


def pieces(content: bytes, size: int = PIECE_BYTES) -> Iterable[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


def examples(
    content: bytes | Iterable[bytes],
    shape: Shape | None = None,
    choice: PackingChoice | None = None,
    spool_dir: Path | None = None,
    **options: Any,
) -> list[Content]:
    """Raises what the intake raises."""
    file = io.BytesIO()
    chunks = pieces(content) if isinstance(content, bytes) else content
    with closing(Intake(shape, file, spool_dir, choice, **options)) as intake:
        for chunk in chunks:
            intake.feed(chunk)
        intake.end()
    parquet = file.getvalue()
    reader = CanonicalReader(parquet)
    groups = [reader.read(group, parquet[group.offset :]) for group in reader.groups]
    return list(itertools.chain.from_iterable(groups))


def faults(content: bytes | Iterable[bytes], **options: Any) -> list[LineFault]:
    """Those of an upload that is refused; none if it is not."""
    try:
        examples(content, **options)
    except UploadRejected as rejected:
        return list(rejected.payload.faults)
    return []


def outcome(content: bytes | Iterable[bytes], **options: Any) -> list[tuple[int, str]] | str | int:
    """The lines and codes of what is wrong; or the reason why all of it is; or how many examples
    there are."""
    try:
        return len(examples(content, **options))
    except UploadRejected as rejected:
        return [(fault.line, str(fault.code)) for fault in rejected.payload.faults]
    except Fault as fault:
        return fault.reason
