"""A directory of files that can be fetched again: the least recently used go when it is full.

Processes may share one. Whoever uses an entry holds a lock on a file beside it, which the kernel
releases if he dies; what somebody uses is not removed.
"""

import fcntl
import os
import secrets
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import structlog
from structlog.typing import FilteringBoundLogger

_LOCKS = "locks"
_OTHERS = (".locks", "CACHEDIR.TAG")
"""What the hub's library keeps beside its entries."""
_ABANDONED_S = 24 * 3600.0

log: FilteringBoundLogger = structlog.get_logger(__name__)


class Uses:
    """The entries that somebody uses. Threads may share it."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._alone = threading.Lock()

    def add(self, lock: Path) -> None:
        """Waits, a moment at most, for whoever is removing the entry."""
        with self._alone:
            if lock not in self._descriptors:
                self._descriptors[lock] = descriptor = _opened(lock)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            os.utime(lock)

    def end(self) -> None:
        """What was used may be removed."""
        with self._alone:
            while self._descriptors:
                _, descriptor = self._descriptors.popitem()
                os.close(descriptor)


class Cache:
    """Entries are files or directories, one folder below `directory`, each named after its content.
    `limit_bytes` 0: nothing is ever removed."""

    def __init__(self, directory: Path, limit_bytes: int = 0) -> None:
        self.directory = directory
        self._limit_bytes = limit_bytes

    def use(self, entry: Path, uses: Uses) -> None:
        """From now on, until the uses end, the entry stays if it is there."""
        entry.parent.mkdir(parents=True, exist_ok=True)
        uses.add(self._lock(entry))

    def make_room(self) -> None:
        """Removes what nobody uses, the least recently used first, until the rest is within the
        limit, or all of it is in use."""
        if not self._limit_bytes:
            return
        self._remove_leftovers()
        entries = {entry: _size_bytes(entry) for entry in self._entries(hidden=False)}
        excess_bytes = sum(entries.values()) - self._limit_bytes
        for entry in sorted(entries, key=self._used_time):
            if excess_bytes <= 0:
                return
            if self._remove_unless_used(entry):
                excess_bytes -= entries[entry]
                log.info("cache.removed", entry=entry.name, size_bytes=entries[entry])
        if excess_bytes > 0:
            log.warning("cache.full", limit_bytes=self._limit_bytes, excess_bytes=excess_bytes)

    def _entries(self, *, hidden: bool) -> list[Path]:
        """`hidden` are those that are being fetched or removed."""
        folders = [one for one in self.directory.iterdir() if one.is_dir() and one.name != _LOCKS]
        inside = [entry for folder in folders for entry in folder.iterdir()]
        named = [entry for entry in inside if entry.name not in _OTHERS]
        return [entry for entry in named if entry.name.startswith(".") == hidden]

    def _remove_leftovers(self) -> None:
        """Of processes that died while they fetched or removed something."""
        for entry in self._entries(hidden=True):
            with suppress(FileNotFoundError):  # gone by now, as it should
                if time.time() - entry.lstat().st_mtime > _ABANDONED_S:
                    _remove(entry)

    def _remove_unless_used(self, entry: Path) -> bool:
        descriptor = _opened(self._lock(entry))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):  # somebody else made room at the same time
                _remove(entry)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _used_time(self, entry: Path) -> float:
        """0 of one that nobody has used through this class."""
        try:
            return self._lock(entry).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _lock(self, entry: Path) -> Path:
        return self.directory / _LOCKS / "-".join(entry.relative_to(self.directory).parts)


def _opened(lock: Path) -> int:
    lock.parent.mkdir(parents=True, exist_ok=True)
    return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _remove(entry: Path) -> None:
    """At once for all who look for it, also if this process dies meanwhile."""
    aside = entry.with_name(f".{entry.name}.{secrets.token_hex(8)}")
    entry.rename(aside)
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()


def _size_bytes(entry: Path) -> int:
    """Of what it holds itself: a hub's snapshots are links to files beside them."""
    total_bytes = 0
    for directory, _, names in os.walk(entry):
        for name in names:
            total_bytes += _file_bytes(Path(directory, name))
    return total_bytes or _file_bytes(entry)


def _file_bytes(path: Path) -> int:
    """0 of one that is being removed or renamed."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
