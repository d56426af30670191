"""Files that appear whole: written aside, checked, then renamed."""

import hashlib
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from anneal.errors import DataLoss, Refusal


class PartFile:
    """A file being written. Computes the sha256 of what it is given."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("wb")
        self._digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._digest.update(chunk)

    def finish(self, sha256: str = "") -> None:
        """Makes the bytes durable. Raises DataLoss when they are not those of `sha256`."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        found = self._digest.hexdigest()
        if sha256 and found != sha256:
            raise damaged(self._path.name, f"its sha256 is {found}, not {sha256}")

    def abandon(self) -> None:
        self._file.close()


@contextmanager
def file_aside(target: Path) -> Generator[Path]:
    """Yields a path beside `target`; what lies there at the end becomes `target`, or vanishes."""
    aside = _aside(target)
    try:
        yield aside
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_aside(target: Path) -> Generator[Path]:
    """Yields a new folder beside `target` that becomes `target` at the end, or vanishes.

    Raises FileExistsError when `target` is there and is not an empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is there already and is not an empty directory")
    aside = _aside(target)
    aside.mkdir(parents=True)
    try:
        yield aside
        aside.replace(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def path_inside(folder: Path, relative: str) -> Path:
    """Returns where a file that a service named belongs. Raises DataLoss if that is outside."""
    path = PurePosixPath(relative)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in relative:
        raise damaged(relative, "its path leads out of the directory")
    return folder / path


def damaged(what: str, how: str) -> DataLoss:
    return DataLoss(Refusal("DATA_LOSS", "DOWNLOAD_DAMAGED", f"{what} came damaged: {how}"))


def _aside(target: Path) -> Path:
    return target.parent / f".{target.name}.{os.getpid()}.part"
