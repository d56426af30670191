"""Containers that can only be read whole: Parquet files and documents.

What reads them is large, and made for files that nobody has tampered with. So it runs in a process
of its own (`reader`), which may take a little memory and time and gives rows as JSON lines.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from services.dataset.domain.containers.choices import ContainerKind, DocumentChoice
from services.dataset.domain.containers.entries import Broken, Entry
from services.dataset.domain.containers.reading import FLAW_MARK, Reading, told_flaw
from services.dataset.domain.errors import DecompressedTooLarge
from services.dataset.domain.flaws import Flaw, FlawCode
from services.dataset.domain.lines import Line, LineSplitter

READER = (sys.executable, "-P", "-m", "services.dataset.domain.containers.reader")
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
"""Memory is asked for where it is needed, and not in stock, so that the reader's limit holds."""

_PIECE_BYTES = 64 * 1024


class Spooled:
    """Keeps an upload in a file and has it read at the end. `limit_bytes` is how much may come out
    of it."""

    def __init__(
        self,
        container: ContainerKind,
        document: DocumentChoice,
        columns: tuple[str, ...] | None,
        limit_bytes: int,
        spool_dir: Path | None,
        reader: Sequence[str] = READER,
    ) -> None:
        self._container = container
        self._document = document
        self._columns = columns
        self._limit_bytes = limit_bytes
        self._program = reader
        self._rows = LineSplitter()
        self._held = ExitStack()
        self._file = self._held.enter_context(_spool_file(spool_dir))

    @property
    def count(self) -> int:
        return self._rows.count

    def feed(self, chunk: bytes) -> Iterator[Entry]:
        self._file.write(chunk)
        return iter(())

    def end(self) -> Iterator[Entry]:
        """Raises DecompressedTooLarge."""
        self._file.flush()
        reading = Reading(self._file.name, self._container, self._document, self._columns)
        reader = subprocess.Popen(
            [*self._program, reading.told()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT},
        )
        with self._held:
            self._held.enter_context(reader)
            self._held.callback(reader.kill)
            for piece in self._pieces(reader):
                yield from map(_entry, self._rows.feed(piece))
            if reader.wait() != 0:
                text = "reading it takes too much memory or time; split or rewrite the file"
                flaw = Flaw(FlawCode.CONTAINER_TOO_LARGE, text)
                yield Broken(self.count + 1, [flaw], None)

    def close(self) -> None:
        self._held.close()

    def _pieces(self, reader: subprocess.Popen[bytes]) -> Iterator[bytes]:
        size_bytes = 0
        while reader.stdout and (piece := reader.stdout.read(_PIECE_BYTES)):
            size_bytes += len(piece)
            if size_bytes > self._limit_bytes:
                raise DecompressedTooLarge(self._limit_bytes)
            yield piece


@contextmanager
def _spool_file(directory: Path | None) -> Generator[IO[bytes]]:
    """A file that is gone afterwards."""
    with tempfile.NamedTemporaryFile(prefix="container-", dir=directory) as file:
        yield file


def _entry(row: Line) -> Entry:
    if row.text is not None and row.text.startswith(FLAW_MARK):
        return Broken(row.number, [told_flaw(row.text)], None)
    return row._replace(offset=None)
