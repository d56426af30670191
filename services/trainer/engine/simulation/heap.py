"""How much memory the C library takes from the kernel for a sequence of allocations.

Freed pieces leave gaps that later ones do not fit into, and what goes back to the kernel depends
on what was freed before. So the sequence is gone through with the allocator itself: it hands out
addresses, and as nobody writes there the kernel gives no memory for them.

`python -m services.trainer.engine.simulation.heap` reads events from standard input, one a line:
`+` and the size in bytes of an allocation, or `-` and the number of one that is freed; the first
is 0. It prints the place of the event, from 0, after which most was taken, and how much that was.
The allocator keeps what was freed, so most is often taken for long: of those places, the one at
which most of it was in use.
"""

import ctypes
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_ALIGNMENT = 64
"""Bytes; torch's on a CPU."""
_COMPANIONS = (24, 24, 24, 40, 56, 96, 176, 312)
"""Bytes: the small objects that live as long as a tensor (its own, its storage's, a node of the
graph, short lists), by the sizes most seen. They settle in the slivers that an aligned allocation
leaves beside it, and a piece of the same size does not fit there again."""


@dataclass(frozen=True, slots=True)
class HeapPeak:
    """Most was taken, and of that most in use, after the event in `place`, from 0."""

    place: int
    taken_bytes: int


class _MallInfo2(ctypes.Structure):
    """See mallinfo(3). `arena` is the heap, `hblkhd` what was too large for it."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def heap_peak(events: Iterable[str]) -> HeapPeak | None:
    """Goes through the events in a process of its own; nothing if the C library is another than
    GNU's, or will not hand out so much."""
    if platform.libc_ver()[0] != "glibc":
        return None
    replayed = subprocess.run(
        [sys.executable, "-P", "-m", __name__],
        input="\n".join(events),
        capture_output=True,
        text=True,
        check=False,
    )
    if replayed.returncode != 0:
        return None
    place, taken_bytes = map(int, replayed.stdout.split())
    return HeapPeak(place, taken_bytes)


def _replay(lines: Iterable[str]) -> HeapPeak:
    """Raises MemoryError."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _MallInfo2
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    before = _taken_bytes(library)
    aligned = ctypes.c_void_p()
    pieces: list[list[int | None]] = []
    sizes: list[int] = []
    used_bytes = most_used_bytes = 0
    peak = HeapPeak(0, 0)
    for place, line in enumerate(lines):
        number = int(line[1:])
        if line[0] == "-":
            for address in pieces[number]:
                library.free(address)
            used_bytes -= sizes[number]
            continue
        failed = library.posix_memalign(
            ctypes.byref(aligned), ctypes.c_size_t(_ALIGNMENT), ctypes.c_size_t(number)
        )
        if failed:
            raise MemoryError
        pieces.append([aligned.value, *map(library.malloc, _COMPANIONS)])
        sizes.append(number)
        used_bytes += number
        taken_bytes = _taken_bytes(library) - before
        if (taken_bytes, used_bytes) > (peak.taken_bytes, most_used_bytes):
            peak, most_used_bytes = HeapPeak(place, taken_bytes), used_bytes
    return peak


def _taken_bytes(library: Any) -> int:
    info = library.mallinfo2()
    return info.arena + info.hblkhd


if __name__ == "__main__":
    _peak = _replay(sys.stdin)
    print(_peak.place, _peak.taken_bytes)
