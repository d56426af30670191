"""Bytes under the name of their sha256, on a local disk, S3, GCS or Azure, or in memory.

    sha256/ab/abcd…               whole and verified while it was written; never changed
    owned/<owner>/sha256/ab/…     the same, of one owner, and gone when the owner's are removed
    staging/<random>              being written; a failed or cut upload takes it away again, and
                                  `leftovers` what the end of a process left

The key follows from the content, so no caller ever supplies a location, equal content is stored
once, and a reader can prove what it got. Who refers to a blob is not known here, so one that all
share stays for ever. What is to go one day is stored apart, under its owner, even if the same bytes
are there already: nobody else can refer to it.
"""

import asyncio
import copy
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, Self
from urllib.parse import unquote, urlsplit

import obstore
import obstore.exceptions
from obstore.store import LocalStore, MemoryStore, from_url

from services.common.failpoints import failpoint
from services.common.faults import DataLoss, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Config

PIECE_BYTES = 512 * 1024
_MULTIPART_BYTES = 8 * 1024 * 1024
_STAGING = "staging"
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_OWNER = re.compile(r"[a-z0-9-]+(/[a-z0-9-]+)*")
_RETRY: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
_CLIENT: "ClientConfig" = {"connect_timeout": timedelta(seconds=5)}


class BlobMissing(DataLoss):
    """There are no bytes under this digest."""

    def __init__(self, digest: str) -> None:
        super().__init__("BLOB_MISSING", f"no blob {digest} is stored", digest=digest)


class BlobCorrupt(DataLoss):
    """The bytes under this digest have another one."""

    def __init__(self, digest: str) -> None:
        super().__init__("BLOB_CORRUPT", f"the bytes of blob {digest} are damaged", digest=digest)


class BlobsUnavailable(Unavailable):
    """The blob store does not answer. Nothing was stored."""

    def __init__(self) -> None:
        super().__init__("BLOBS_UNAVAILABLE", "the blob store does not answer; try again")


@dataclass(frozen=True)
class Blob:
    """What is stored. `digest` is the sha256 in 64 hex digits."""

    digest: str
    size_bytes: int


class Blobs(Protocol):
    """A content-addressed store. Digests that are no sha256 in hex raise InvalidArgument."""

    async def put(self, chunks: AsyncIterable[bytes] | bytes) -> Blob:
        """Stores all or nothing; durable on return. Raises what `chunks` raises, and
        BlobsUnavailable."""
        ...

    async def put_file(self, path: Path) -> Blob:
        """Stores a file that nobody is writing to. Content that is there is not sent again."""
        ...

    async def read(self, digest: str) -> bytes:
        """All bytes of a small blob, verified. Raises BlobMissing, BlobCorrupt."""
        ...

    def stream(self, digest: str, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes from `offset` on, in pieces of at most 512 KiB. From 0 on they are verified:
        BlobCorrupt after the last piece. Raises BlobMissing, InvalidArgument beyond the end."""
        ...

    async def fetch(self, digest: str, to: Path) -> None:
        """Makes `to` a verified, synced copy, whole at once; its directory must exist. Raises
        BlobMissing, BlobCorrupt and leaves `to` as it was."""
        ...

    async def exists(self, digest: str) -> bool: ...

    def owned_by(self, owner: str) -> "Blobs":
        """The blobs of one owner, apart from all others. An owner is of words of lower-case
        letters, digits and `-`, with `/` between them. Raises InvalidArgument."""
        ...

    async def remove_owned(self, owner: str) -> None:
        """Removes the blobs of `owner` and of all whose names go on from it with `/`. Removing
        again what is gone, or half gone, is no fault. Raises BlobsUnavailable."""
        ...

    async def remove_leftovers(self, before: datetime) -> None:
        """Removes what was being written and has not been written to since then. Raises
        BlobsUnavailable."""
        ...

    async def ping(self) -> None:
        """Raises BlobsUnavailable unless the store answers."""
        ...


class ObstoreBlobs:
    """Blobs on an obstore. `root` is its directory if it is a local one: obstore renames into
    place but does not sync, so that is done here, before anybody hears of the blob."""

    def __init__(self, store: "ObjectStore", root: Path | None = None) -> None:
        self._store = store
        self._root = root
        self._folder = ""

    @classmethod
    def open(cls, url: str, *, s3: "S3Config | None" = None) -> Self:
        """`file:///dir` (made if missing), `memory://`, `s3://bucket/prefix`, `gs://…`, `az://…`.

        Endpoint, region and credentials come from `s3` or from the provider's usual environment
        variables (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, …). An endpoint that is
        written with http:// is spoken to in clear.
        """
        parts = urlsplit(url)
        if parts.scheme == "file":
            root = Path(unquote(parts.path))
            return cls(LocalStore(root, mkdir=True), root)
        if parts.scheme == "memory":
            return cls(MemoryStore())
        endpoint = (s3 or {}).get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")
        plain = endpoint.startswith("http://")
        client: ClientConfig = {**_CLIENT, "allow_http": True} if plain else _CLIENT
        return cls(from_url(url, config=s3, client_options=client, retry_config=_RETRY))

    async def put(self, chunks: AsyncIterable[bytes] | bytes) -> Blob:
        pieces = _pieces_of(chunks) if isinstance(chunks, bytes) else chunks
        staged = f"{_STAGING}/{secrets.token_hex(16)}"
        with _translated():
            try:
                blob = await self._write(staged, pieces)
                await self._publish(staged, blob.digest)
            finally:
                with suppress(FileNotFoundError):
                    await obstore.delete_async(self._store, staged)
        return blob

    async def put_file(self, path: Path) -> Blob:
        blob = await asyncio.to_thread(_measure, path)
        if await self.exists(blob.digest):
            return blob
        if self._root is not None:
            return await self.put(_pieces_of_file(path))
        with _translated():  # a remote put appears whole: no copy, which S3 limits to 5 GB
            return await self._write(self._key(blob.digest), _pieces_of_file(path), blob.digest)

    async def read(self, digest: str) -> bytes:
        return b"".join([piece async for piece in self.stream(digest)])

    async def stream(self, digest: str, offset: int = 0) -> AsyncGenerator[bytes]:
        key, sha = self._key(digest), hashlib.sha256()
        with _translated(), _missing(digest):
            if not await self._has_bytes_from(key, offset):
                return
            options: obstore.GetOptions = {"range": {"offset": offset}} if offset else {}
            response = await obstore.get_async(self._store, key, options=options)
            async for chunk in response.stream(min_chunk_size=PIECE_BYTES):
                async for piece in _pieces_of(bytes(chunk)):
                    sha.update(piece)
                    yield piece
        if offset == 0 and sha.hexdigest() != digest:
            raise BlobCorrupt(digest)

    async def fetch(self, digest: str, to: Path) -> None:
        aside = to.with_name(f".{to.name}.{secrets.token_hex(8)}")
        try:
            file = await asyncio.to_thread(aside.open, "xb")
            with file:
                async for piece in self.stream(digest):
                    await asyncio.to_thread(file.write, piece)
                await asyncio.to_thread(_sync, file)
            failpoint("blobs.fetched")
            await asyncio.to_thread(_move, aside, to)
        finally:
            await asyncio.to_thread(aside.unlink, missing_ok=True)

    async def exists(self, digest: str) -> bool:
        with _translated():
            try:
                await obstore.head_async(self._store, self._key(digest))
            except FileNotFoundError:
                return False
        return True

    def owned_by(self, owner: str) -> Self:
        theirs = copy.copy(self)
        theirs._folder = f"{_owned(owner)}/"
        return theirs

    async def remove_owned(self, owner: str) -> None:
        folder = _owned(owner)
        self._require_root()
        with _translated():
            if self._root is not None:  # its directories are to go, too
                await asyncio.to_thread(_remove_directory, self._root / folder)
                return
            async for entries in obstore.list(self._store, folder):
                await obstore.delete_async(self._store, [entry["path"] for entry in entries])

    async def remove_leftovers(self, before: datetime) -> None:
        self._require_root()
        with _translated():
            if self._root is not None:  # obstore does not list a file that it has not closed yet
                await asyncio.to_thread(_remove_files, self._root / _STAGING, before)
                return
            async for entries in obstore.list(self._store, _STAGING):
                old = [entry["path"] for entry in entries if entry["last_modified"] < before]
                await obstore.delete_async(self._store, old)

    async def ping(self) -> None:
        self._require_root()
        with _translated():
            await obstore.list_with_delimiter_async(self._store, _STAGING)

    async def _write(self, key: str, pieces: AsyncIterable[bytes], digest: str = "") -> Blob:
        """Writes `key` whole, or nothing if an exception comes out of `pieces` or the content
        has not the `digest` it should have."""
        sha, size_bytes = hashlib.sha256(), 0
        async with obstore.open_writer_async(
            self._store, key, buffer_size=_MULTIPART_BYTES
        ) as writer:
            failpoint("blobs.staging")
            async for piece in pieces:
                sha.update(piece)
                size_bytes += len(piece)
                await writer.write(piece)
            if digest and sha.hexdigest() != digest:
                raise BlobCorrupt(digest)
        return Blob(sha.hexdigest(), size_bytes)

    async def _publish(self, staged: str, digest: str) -> None:
        key = self._key(digest)
        if await self.exists(digest):
            return
        if self._root is not None:
            await asyncio.to_thread(_sync_path, self._root / staged)
        failpoint("blobs.staged")
        await obstore.rename_async(self._store, staged, key)
        failpoint("blobs.placed")
        if self._root is not None:
            await asyncio.to_thread(_sync_directories, self._root / key, self._root)

    async def _has_bytes_from(self, key: str, offset: int) -> bool:
        if offset == 0:
            return True
        size_bytes = (await obstore.head_async(self._store, key))["size"]
        if not 0 <= offset <= size_bytes:
            raise InvalidArgument.of("offset", f"must be between 0 and {size_bytes}")
        return offset < size_bytes

    def _require_root(self) -> None:
        """A directory that is not mounted looks like one without blobs."""
        if self._root is not None and not self._root.is_dir():
            raise BlobsUnavailable

    def _key(self, digest: str) -> str:
        if _SHA256_HEX.fullmatch(digest) is None:
            raise InvalidArgument.of("digest", f"{digest[:80]!r} is not a sha256 in hex")
        return f"{self._folder}sha256/{digest[:2]}/{digest}"


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except obstore.exceptions.BaseError as error:
        raise BlobsUnavailable from error
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # how obstore says that a disk is full
            raise BlobsUnavailable from error
        raise


@contextmanager
def _missing(digest: str) -> Generator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BlobMissing(digest) from error


def _owned(owner: str) -> str:
    if _OWNER.fullmatch(owner) is None:
        raise InvalidArgument.of("owner", f"{owner[:80]!r} is no name of an owner")
    return f"owned/{owner}"


def _remove_directory(path: Path) -> None:
    """Raises BlobsUnavailable."""
    while path.exists():
        try:
            shutil.rmtree(path)
        except FileNotFoundError:  # somebody else is removing it as well
            continue
        except OSError as error:
            raise BlobsUnavailable from error


def _remove_files(directory: Path, before: datetime) -> None:
    """Those last written before then."""
    for path in directory.glob("*"):
        with suppress(FileNotFoundError):  # somebody else was faster
            if path.stat().st_mtime < before.timestamp():
                path.unlink()


async def _pieces_of(content: bytes) -> AsyncGenerator[bytes]:
    view = memoryview(content)
    for start in range(0, len(view), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])


async def _pieces_of_file(path: Path) -> AsyncGenerator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    with file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece


def _measure(path: Path) -> Blob:
    with path.open("rb") as file:
        return Blob(hashlib.file_digest(file, "sha256").hexdigest(), file.tell())


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directories(path: Path, root: Path) -> None:
    """The directories down to `path`: some of them may be new."""
    while path != root:
        path = path.parent
        _sync_path(path)


def _move(aside: Path, to: Path) -> None:
    aside.replace(to)
    _sync_path(to.parent)
