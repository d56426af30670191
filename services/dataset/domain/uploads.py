"""The use case that everything else stands on: an upload becomes a version, whole or not at all."""

import tempfile
from collections.abc import AsyncIterator, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO

from services.common.clock import Clock
from services.common.ids import NewId, content_id
from services.dataset.domain.errors import (
    DatasetVersionNotFound,
    DigestMismatch,
    RequestForgotten,
    VersionIdTaken,
)
from services.dataset.domain.header import UploadHeader
from services.dataset.domain.intake import Examined, Intake, Source
from services.dataset.domain.ports import Blobs, Store, Tables
from services.dataset.domain.receiving import in_thread, receive
from services.dataset.domain.resources import DatasetVersion


@dataclass(frozen=True)
class UploadLimits:
    """`max_bytes` holds for an upload as it comes, and again for what is compressed in it.
    `spool_dir` holds one file per upload in progress, at most as large as its examples, for a while
    two, and one more as large as the upload if that is a Parquet file or a document; None is the
    system's directory for temporary files."""

    max_bytes: int
    spool_dir: Path | None = None


class Uploads:
    """Receives, checks and stores uploads."""

    def __init__(
        self, store: Store, blobs: Blobs, clock: Clock, new_uid: NewId, limits: UploadLimits
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._new_uid = new_uid
        self._limits = limits

    async def upload(self, header: UploadHeader, chunks: AsyncIterator[bytes]) -> DatasetVersion:
        """The version that holds these examples: a new one, or the one that is there.

        A request_id that was answered before is answered alike: its chunks are received and hashed,
        to see that they are the same, but not checked again. Raises UploadRejected, EmptyUpload,
        DigestMismatch, UploadTooLarge, ChunkTooLarge, and InvalidArgument for a request_id that was
        used for another upload; then nothing is stored.
        """
        if await self._is_answered(header):
            return await self._answer_again(header, chunks)
        source = Source()
        with (
            _spool_file(self._limits.spool_dir) as file,
            closing(self._intake(header, file)) as intake,
        ):
            await receive(chunks, (source, intake), limit_bytes=self._limits.max_bytes)
            _require_digest(header, source)
            examined = await in_thread(intake.end)
            version = self._version(header, source, examined)
            if header.validate_only:
                return await self._as_if_stored(version)
            await self._blobs.put_file(Path(file.name))
        return await self._add(header, source, version)

    def _intake(self, header: UploadHeader, file: BinaryIO) -> Intake:
        limits = self._limits
        return Intake(header.shape, file, limits.spool_dir, header.packing, limits.max_bytes)

    async def _is_answered(self, header: UploadHeader) -> bool:
        if header.validate_only:
            return False
        async with self._store.reading() as tables:
            return await tables.requests.answered(header)

    async def _answer_again(
        self, header: UploadHeader, chunks: AsyncIterator[bytes]
    ) -> DatasetVersion:
        source = Source()
        await receive(chunks, (source,), limit_bytes=self._limits.max_bytes)
        _require_digest(header, source)
        async with self._store.writing() as tables:
            version = await _first_answer(tables, header, source)
        if version is None:
            raise RequestForgotten(header.request_id)
        return version

    async def _as_if_stored(self, version: DatasetVersion) -> DatasetVersion:
        async with self._store.reading() as tables:
            existing = await tables.datasets.find_version(version.name)
        return _same(existing, version) if existing else version

    async def _add(
        self, header: UploadHeader, source: Source, version: DatasetVersion
    ) -> DatasetVersion:
        async with self._store.writing() as tables:
            twin = await _first_answer(tables, header, source)
            if twin is not None:
                return twin
            stored = await tables.datasets.add(version, uid=self._new_uid())
            await tables.requests.settle(header, stored.name)
            return _same(stored, version)

    def _version(self, header: UploadHeader, source: Source, examined: Examined) -> DatasetVersion:
        return DatasetVersion(
            name=header.parent.version(content_id(examined.digest)),
            digest=examined.digest,
            example_count=examined.example_count,
            size_bytes=examined.size_bytes,
            source_format=examined.source_format,
            source_digest=source.digest,
            create_time=self._clock.now(),
        )


async def _first_answer(
    tables: Tables, header: UploadHeader, source: Source
) -> DatasetVersion | None:
    """What the request_id was answered with before, as it is now; None the first time."""
    name = await tables.requests.reserve(header, header.fingerprint(source.digest))
    if name is None:
        return None
    version = await tables.datasets.find_version(name)
    if version is None:
        raise DatasetVersionNotFound(name)
    return version


@contextmanager
def _spool_file(directory: Path | None) -> Generator[BufferedRandom]:
    """A file that is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="upload-", dir=directory) as own,
        Path(own, "examples.parquet").open("w+b") as file,
    ):
        yield file


def _require_digest(header: UploadHeader, source: Source) -> None:
    if header.sha256 and header.sha256 != source.digest:
        raise DigestMismatch(header.sha256, source.digest)


def _same(stored: DatasetVersion, version: DatasetVersion) -> DatasetVersion:
    """The stored version, if it is the same in more than the digits that make up its id."""
    if stored.digest != version.digest:
        raise VersionIdTaken(version.name, version.digest)
    return stored
