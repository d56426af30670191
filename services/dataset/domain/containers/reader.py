"""The process that reads a spooled file: rows as JSON lines on its standard output.

It may take as much memory as it is told, and time by the size of the file.
"""

import logging
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from services.dataset.domain.containers.choices import ContainerKind
from services.dataset.domain.containers.reading import Reading, Unreadable, flaw_line
from services.dataset.domain.flaws import Flaw, FlawCode

_SECONDS, _BYTES_PER_SECOND = 60, 1024 * 1024
_STATUS = Path("/proc/self/status")

_TOO_LARGE = "a page, a row or a part needs too much memory; write it in smaller ones"


def lines(reading: Reading) -> Iterator[bytes]:
    """The rows, and what is wrong. Each kind's reader is imported where it is needed: together they
    would take more memory than the reading."""
    try:
        yield from _rows(reading)
    except Unreadable as error:
        yield flaw_line(error.flaw)
    except MemoryError:
        yield flaw_line(Flaw(FlawCode.CONTAINER_TOO_LARGE, _TOO_LARGE))


def _rows(reading: Reading) -> Iterator[bytes]:
    if reading.container is ContainerKind.PARQUET:
        from services.dataset.domain.containers import parquet

        _limit(reading)
        return parquet.rows(reading)
    from services.dataset.domain.containers import documents

    extract = documents.extractor(reading)
    _limit(reading)
    return documents.rows(reading, extract)


def _limit(reading: Reading) -> None:
    """Holds memory down where the system tells how much there is, and time everywhere."""
    seconds = _SECONDS + Path(reading.path).stat().st_size // _BYTES_PER_SECOND
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    if _STATUS.exists():
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        size_bytes = int(fields["VmData"].split()[0]) * 1024 + reading.memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (size_bytes, size_bytes))


def main() -> None:
    logging.disable()
    for line in lines(Reading.from_told(sys.argv[1])):
        sys.stdout.buffer.write(line + b"\n")


if __name__ == "__main__":
    main()
