"""Directories as blobs: a manifest names the files, each of which is a blob of its own."""

import asyncio
import hashlib
import secrets
import shutil
from collections import defaultdict
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from services.common.blobs import Blobs
from services.common.cache import Cache, Uses
from services.common.failpoints import failpoint
from services.common.manifest import FileEntry, Manifest

_HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""What a hub model is made of; weights that could hold code are never taken."""


@dataclass(frozen=True)
class StoredDirectory:
    """A directory that is in the blob store. `size_bytes` counts its files."""

    manifest_digest: str
    size_bytes: int


class Directories:
    """Stores directories, and lays them out again, for good or in a cache.

    What is fetched is verified by its sha256 and appears whole: a path that exists is complete.
    Several processes may share a cache. What was asked of it stays there until `end_uses`.
    """

    def __init__(self, blobs: Blobs, cache_dir: Path, limit_bytes: int = 0) -> None:
        self._blobs = blobs
        self._cache = Cache(cache_dir, limit_bytes)
        self._uses = Uses()
        self._fetching: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def owned_by(self, owner: str) -> "Directories":
        """The same cache and uses, with the blobs of one owner: see Blobs."""
        theirs = copy(self)
        theirs._blobs = self._blobs.owned_by(owner)
        return theirs

    def for_one_user(self) -> "Directories":
        """The same cache and blobs, with uses of its own."""
        theirs = copy(self)
        theirs._uses = Uses()
        return theirs

    def end_uses(self) -> None:
        """What was asked of the cache may go."""
        self._uses.end()

    async def store(self, directory: Path, meta: Mapping[str, str]) -> StoredDirectory:
        """Stores every file and a manifest of them; the same content gives the same digest."""
        paths = await asyncio.to_thread(_files, directory)
        entries = [await self._store_file(directory, path) for path in paths]
        failpoint("directories.stored")
        blob = await self._blobs.put(Manifest(tuple(entries), dict(meta)).to_bytes())
        return StoredDirectory(blob.digest, sum(entry.size_bytes for entry in entries))

    async def fetch(self, manifest_digest: str, to: Path) -> Path:
        """Lays the files of a manifest into `to`, which must not exist yet."""
        manifest = Manifest.parse(await self._blobs.read(manifest_digest))
        aside = to.with_name(f".{to.name}.{secrets.token_hex(8)}")
        try:
            for entry in manifest.files:
                target = aside / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                await self._blobs.fetch(entry.sha256, target)
            failpoint("directories.fetched")
            aside.rename(to)
        finally:
            await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)
        return to

    async def cached(self, manifest_digest: str) -> Path:
        """The directory of a manifest, in the cache. Fetched once, whoever else asks meanwhile."""
        path = self._cache.directory / "directories" / manifest_digest
        await self._use(path)
        async with self._fetching[manifest_digest]:
            if not path.exists():
                await self._fetch_unless_there(manifest_digest, path)
                await self._make_room()
        return path

    async def cached_file(self, digest: str, suffix: str) -> Path:
        """One blob as a file of the cache, its name ending with `suffix`."""
        path = self._cache.directory / "files" / f"{digest}{suffix}"
        await self._use(path)
        if not path.exists():
            await self._blobs.fetch(digest, path)
            await self._make_room()
        return path

    async def cached_hub_model(self, repository: str, revision: str) -> Path:
        """A hub model's files at one commit, in the cache. Needs the `[node]` extra."""
        entry = self._cache.directory / "hub" / f"models--{repository.replace('/', '--')}"
        await self._use(entry)
        path = await asyncio.to_thread(self._download, repository, revision)
        await self._make_room()
        return path

    async def _use(self, entry: Path) -> None:
        await asyncio.to_thread(self._cache.use, entry, self._uses)

    async def _make_room(self) -> None:
        await asyncio.to_thread(self._cache.make_room)

    async def _fetch_unless_there(self, manifest_digest: str, path: Path) -> None:
        try:
            await self.fetch(manifest_digest, path)
        except OSError:
            if not await asyncio.to_thread(path.exists):
                raise  # else another process was faster, with the same files

    async def _store_file(self, directory: Path, path: Path) -> FileEntry:
        blob = await self._blobs.put_file(path)
        return FileEntry(path.relative_to(directory).as_posix(), blob.size_bytes, blob.digest)

    def _download(self, repository: str, revision: str) -> Path:
        from huggingface_hub import snapshot_download  # not installed with the control planes

        return Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=self._cache.directory / "hub",
                allow_patterns=list(_HUB_FILES),
            )
        )


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def hub_digest(repository: str, revision: str) -> str:
    """The digest that stands for a hub model: of its name, for the revision fixes its files."""
    return hashlib.sha256(f"{repository}@{revision}".encode()).hexdigest()
