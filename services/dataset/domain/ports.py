"""What the domain needs from outside."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from services.dataset.domain.header import UploadHeader
from services.dataset.domain.names import DatasetName, VersionName
from services.dataset.domain.resources import Dataset, DatasetVersion


class DatasetRows(Protocol):
    """The datasets and versions that one transaction sees."""

    async def find(self, name: DatasetName) -> Dataset | None: ...

    async def page(self, project: str, *, after: str, limit: int) -> Sequence[Dataset]:
        """Datasets of a project whose ids come after `after`, by id."""
        ...

    async def find_version(self, name: VersionName) -> DatasetVersion | None:
        """By its own id; `latest` is none."""
        ...

    async def version_page(
        self, dataset: DatasetName, *, after: str, limit: int
    ) -> Sequence[DatasetVersion]:
        """Versions from the newest on, or from the one that follows the version id `after`."""
        ...

    async def add(self, version: DatasetVersion, *, uid: str) -> DatasetVersion:
        """Adds a version as the latest, and its dataset under `uid` if that is new. If the version
        is there already, returns that one and changes nothing. Raises Aborted if the dataset is
        deleted at the same time."""
        ...

    async def delete(self, name: DatasetName) -> None:
        """Deletes a dataset with its versions."""
        ...


class UploadRequests(Protocol):
    """Which uploads were sent under a request_id. An empty one is never recorded."""

    async def answered(self, header: UploadHeader) -> bool:
        """Whether an upload of this request_id was stored before."""
        ...

    async def reserve(self, header: UploadHeader, fingerprint: str) -> VersionName | None:
        """None the first time, else the version that the first upload gave. Raises InvalidArgument
        if that had another fingerprint."""
        ...

    async def settle(self, header: UploadHeader, version: VersionName) -> None: ...


class Tables(Protocol):
    """What one transaction can do."""

    @property
    def datasets(self) -> DatasetRows: ...

    @property
    def requests(self) -> UploadRequests: ...


class Store(Protocol):
    """Transactions."""

    def reading(self) -> AbstractAsyncContextManager[Tables]:
        """A consistent snapshot."""
        ...

    def writing(self) -> AbstractAsyncContextManager[Tables]:
        """Commits at the end; an exception or a cancellation leaves nothing."""
        ...


class Blobs(Protocol):
    """Bytes under their sha256."""

    async def put_file(self, path: Path) -> object:
        """Stores a file whole, or nothing."""
        ...

    def stream(self, digest: str, offset: int = 0) -> AsyncGenerator[bytes]:
        """The bytes from `offset` on, in pieces of at most 1 MiB."""
        ...
