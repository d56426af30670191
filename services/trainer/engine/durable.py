"""Directories that appear whole or not at all, also when the power fails."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path


def write_directory(target: Path, files: Mapping[str, bytes]) -> None:
    """Makes `target` a directory of exactly these files, replacing any that is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed here
    aside.mkdir()
    for name, content in files.items():
        _write_file(aside / name, content)
    _sync_directory(aside)
    _move(aside, target)
    _sync_directory(target.parent)


def _write_file(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _move(source: Path, target: Path) -> None:
    if not target.exists():
        source.rename(target)
        return
    replaced = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    target.rename(replaced)
    source.rename(target)
    shutil.rmtree(replaced)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
