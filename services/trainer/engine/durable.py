"""Directories that appear whole or not at all, also when the power fails."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing_directory(target: Path) -> Generator[Path]:
    """Yields an empty directory to write files into, which becomes `target` when the block ends,
    replacing any that is there. After an exception `target` is as it was."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed here
    aside.mkdir()
    yield aside
    for path in aside.iterdir():
        _sync(path)
    _sync(aside)
    _move(aside, target)
    _sync(target.parent)


def remove_directory(path: Path) -> None:
    """Out of sight first: who takes directories away must find a whole one or none."""
    aside = path.with_name(f".{path.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        path.rename(aside)
    except FileNotFoundError:  # somebody has taken it away
        return
    shutil.rmtree(aside)


def clear_leftovers(parent: Path) -> None:
    """Ends what a process was doing to the directories in `parent` when it was killed. Of one that
    was being replaced the old content is there again."""
    for replaced in parent.glob(".*.replaced"):
        target = parent / replaced.name.removeprefix(".").removesuffix(".replaced")
        if not target.exists():
            replaced.rename(target)
    for suffix in ("writing", "replaced", "removed"):
        for leftover in parent.glob(f".*.{suffix}"):
            shutil.rmtree(leftover)


def _move(source: Path, target: Path) -> None:
    if not target.exists():
        source.rename(target)
        return
    replaced = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    target.rename(replaced)
    source.rename(target)
    shutil.rmtree(replaced)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
