"""Takes the directories of base models into the blob store."""

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common.blobs import Blobs
from services.common.directories import hub_digest
from services.common.manifest import FileEntry, Manifest
from services.common.store import Store
from services.registry.adapters.architectures import read_architecture
from services.registry.adapters.sql import SqlTables
from services.registry.domain.architecture import ModelArchitecture
from services.registry.domain.base_models import HubRevision, StoredFiles
from services.registry.domain.names import BaseModelName

_PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})


@dataclass(frozen=True)
class _Found:
    path: str
    size_bytes: int
    modified_ns: int


class BlobIntake:
    """Stores each file as a blob and a manifest of them.

    Everything is content-addressed, so replicas may do it at the same time and again. A row
    remembers what a directory looked like, so that an unchanged one is not read at every start.
    Hidden files, and files that could hold a pickle, stay outside.
    """

    def __init__(self, blobs: Blobs, store: Store[SqlTables]) -> None:
        self._blobs = blobs
        self._store = store

    async def directory(self, name: BaseModelName, directory: Path) -> StoredFiles:
        found = await asyncio.to_thread(_files, directory)
        fingerprint = _fingerprint(directory, found)
        async with self._store.reading() as tables:
            known = await tables.base_models.find(name, fingerprint)
        if known is not None and await self._blobs.exists(known.manifest_digest):
            return known
        files = await self._take_in(directory, [file.path for file in found])
        async with self._store.writing() as tables:
            await tables.base_models.put(name, fingerprint, files)
        return files

    async def architecture(self, directory: Path) -> ModelArchitecture | None:
        # Headers are short: they are read at every start rather than kept.
        return await asyncio.to_thread(read_architecture, directory)

    def hub_digest(self, revision: HubRevision) -> str:
        return hub_digest(revision.repository, revision.revision)

    async def _take_in(self, directory: Path, paths: Sequence[str]) -> StoredFiles:
        entries: list[FileEntry] = []
        for path in paths:
            blob = await self._blobs.put_file(directory / path)
            entries.append(FileEntry(path, blob.size_bytes, blob.digest))
        manifest = Manifest(tuple(entries))
        await self._blobs.put(manifest.to_bytes())
        return StoredFiles(manifest.digest, manifest.size_bytes)


def _files(directory: Path) -> list[_Found]:
    return sorted(_wanted(directory), key=lambda file: file.path)


def _wanted(directory: Path) -> Iterator[_Found]:
    for path in directory.rglob("*"):
        inside = path.relative_to(directory)
        hidden = any(part.startswith(".") for part in inside.parts)
        if not hidden and path.suffix.lower() not in _PICKLES and path.is_file():
            status = path.stat()
            yield _Found(inside.as_posix(), status.st_size, status.st_mtime_ns)


def _fingerprint(directory: Path, found: Sequence[_Found]) -> str:
    seen = [str(directory), [[file.path, file.size_bytes, file.modified_ns] for file in found]]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()
