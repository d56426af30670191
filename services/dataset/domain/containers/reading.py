"""What is to be read of a spooled file, and what cannot be: the words that the service and the
process which reads for it have in common (see `spooled` and `reader`)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from services.dataset.domain.containers.choices import (
    ContainerKind,
    DocumentChoice,
    DocumentKind,
)
from services.dataset.domain.flaws import Flaw, FlawCode

FLAW_MARK = b"!"
"""A line that begins so is a flaw where a row would be. No JSON text begins so."""

MEMORY_BYTES = 64 * 1024 * 1024
"""Beside a service of 130 MiB and a reader that begins with 60 MiB: 256 MiB are not exceeded."""


@dataclass(frozen=True)
class Reading:
    """`columns` None: all that a Parquet file has. `memory_bytes` is what the reader may take more
    than it has at its start."""

    path: str
    container: ContainerKind
    document: DocumentChoice
    columns: Sequence[str] | None = None
    memory_bytes: int = MEMORY_BYTES

    def told(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_told(cls, text: str) -> "Reading":
        given: dict[str, Any] = json.loads(text)
        document = dict(given["document"])
        kind = DocumentKind(document["kind"]) if document["kind"] else None
        return cls(
            given["path"],
            ContainerKind(given["container"]),
            DocumentChoice(kind, document["chunk_characters"], document["overlap_characters"]),
            given["columns"],
            given["memory_bytes"],
        )


class Unreadable(Exception):
    """From here on the upload cannot be read."""

    def __init__(self, code: FlawCode, message: str, *path: str | int) -> None:
        self.flaw = Flaw(code, message[:80], path)
        super().__init__(self.flaw)


def flaw_line(flaw: Flaw) -> bytes:
    return FLAW_MARK + json.dumps([flaw.code, flaw.message, flaw.path]).encode()


def told_flaw(line: bytes) -> Flaw:
    code, message, path = json.loads(line.removeprefix(FLAW_MARK))
    return Flaw(FlawCode(code), message, tuple(path))
