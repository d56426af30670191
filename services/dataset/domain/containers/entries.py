"""What a container holds, one row at a time."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from services.dataset.domain.flaws import Flaw
from services.dataset.domain.formats.rows import Row
from services.dataset.domain.lines import Line


class Record(NamedTuple):
    """A row that is read. `number` is that of its first line."""

    number: int
    row: Row
    offset: int | None


class Broken(NamedTuple):
    """A place in which there is no row, and why."""

    number: int
    flaws: Sequence[Flaw]
    offset: int | None


Entry = Line | Record | Broken
"""A line is a row that is still to be read: one JSON object."""


class Container(Protocol):
    """Bytes as they arrive → entries, in bounded memory. Exhaust what one call returns before the
    next one."""

    @property
    def count(self) -> int:
        """How many lines, or rows where there are no lines, have been read."""
        ...

    def feed(self, chunk: bytes) -> Iterator[Entry]: ...

    def end(self) -> Iterator[Entry]:
        """What the end of the upload completes."""
        ...

    def close(self) -> None:
        """Lets go of files and processes. May come without an end, and twice."""
        ...


class Refused:
    """An upload that cannot be read from here on: says so once, and takes no notice of the rest."""

    def __init__(self, count: int, *flaws: Flaw, offset: int | None = None) -> None:
        self.count = count
        self._broken: list[Entry] = [Broken(max(1, count), flaws, offset)]

    def feed(self, chunk: bytes) -> Iterator[Entry]:
        while self._broken:
            yield self._broken.pop()

    def end(self) -> Iterator[Entry]:
        return self.feed(b"")

    def close(self) -> None:
        """Nothing to let go of."""
