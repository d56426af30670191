"""Has an allocation fail where the kernel would kill: Linux lends out more memory than it has.

Below the limit nothing changes. At it torch, Python and the libraries raise what
`is_out_of_memory` knows, and the step is done again in smaller parts; a process that the kernel
kills has lost all since its last checkpoint.
"""

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from services.trainer.engine.footprint import data_bytes

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_MARGIN = 32
_MARGIN_BYTES = 64 << 20
"""One part in so many stays free, and so much on top: for the tables of the pages (a 500th), for
the node and its uploads, and for what else the host does meanwhile."""
_UNTOUCHED_BYTES = 32 << 20
_UNTOUCHED_BYTES_PER_THREAD = 16 << 20
"""The limit counts addresses, and some are never written to: most of a thread's stack, the ends of
glibc's heaps. In a run of 14 million parameters that was 1,151 MB before the first step, Arrow's
and the libraries' mostly, and 1,154 to 1,200 MB at its peak of 5 GB."""
_ARROW_BYTES = 1 << 30
"""Arrow's allocator reserves so much at its first use, and writes to little of it."""


def limit_memory(processes: int, threads: int, mapped_bytes: int) -> None:
    """Limits what this process may add to its data to its share of what is available (on Linux).

    For the time of loading: `mapped_bytes` of files will be mapped, which counts as data but takes
    no memory that the kernel could not take back.
    """
    if sys.platform == "linux":
        _allow(_share(processes, threads) + _ARROW_BYTES + mapped_bytes)


def tighten_memory_limit(processes: int, threads: int) -> None:
    """Limits a process that is limited already once more, now that everything is loaded."""
    limited = resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY
    if sys.platform == "linux" and limited:
        _allow(_share(processes, threads))


def tensor_files_bytes(*directories: Path | None) -> int:
    """The size of the files that loading maps."""
    held = [directory for directory in directories if directory is not None]
    files = (path for directory in held for path in directory.glob("*.safetensors"))
    return sum(path.stat().st_size for path in files)


def share_bytes(available: int, processes: int) -> int:
    """What each of the processes may add to what it has."""
    return max(0, available - available // _MARGIN - _MARGIN_BYTES) // processes


def available_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """What can still be had without anything being killed, by the host's figures and those of the
    control groups (v1, v2) that this process is in; with what can be swapped out."""
    host = _table(proc / "meminfo", unit=1024)
    swap = host.get("SwapFree:", 0)
    left = [_left_in(group, swap) for group in _groups(proc, cgroups)]
    return min([host["MemAvailable:"] + swap, *(bytes_ for bytes_ in left if bytes_ is not None)])


def _groups(proc: Path, cgroups: Path) -> Iterator[Path]:
    """The directories of the process's groups and all around them, as far as they are to be seen:
    within a container the outer ones are not."""
    listed = proc / "self/cgroup"  # which a kernel without groups has not
    for line in listed.read_text().splitlines() if listed.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        inside = Path(path).relative_to("/")
        yield from (root / part for part in (inside, *inside.parents))


def _left_in(group: Path, swap: int) -> int | None:
    """Cached files make room, but for those in use, such as the programs' own. None: the group has
    no limit, or is not to be seen."""
    if (limit := _number(group / "memory.max")) is not None:  # v2
        used, idle = _number(group / "memory.current"), "inactive_file"
        swap_limit = _number(group / "memory.swap.max")
        if swap_limit is not None:
            swap = min(swap, swap_limit - (_number(group / "memory.swap.current") or 0))
    elif (limit := _number(group / "memory.limit_in_bytes")) is not None:  # v1
        used, idle = _number(group / "memory.usage_in_bytes"), "total_inactive_file"
    else:
        return None
    return limit - (used or 0) + _table(group / "memory.stat").get(idle, 0) + swap


def _number(path: Path) -> int | None:
    """None: there is no such file, or no limit in it."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _table(path: Path, unit: int = 1) -> dict[str, int]:
    """A file of names and numbers."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {name: int(number) * unit for name, number, *_ in rows}


def _share(processes: int, threads: int) -> int:
    untouched = _UNTOUCHED_BYTES + threads * _UNTOUCHED_BYTES_PER_THREAD
    return share_bytes(available_bytes(), processes) + untouched


def _allow(more: int) -> None:
    """More data by so much. A limit that is lower already is never raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    size = data_bytes() + more
    lower = size if soft == resource.RLIM_INFINITY else min(size, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (lower, hard))
