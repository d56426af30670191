"""What this service needs of the outside."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from services.common.filters import Filter
from services.common.names import ProjectName
from services.common.request_ids import RequestKey
from services.registry.domain.models import Model, ModelAlias, ModelVersion
from services.registry.domain.names import ModelAliasName, ModelName, ModelVersionName


class ModelRows(Protocol):
    """The series."""

    async def find(self, name: ModelName) -> Model | None: ...

    async def page(self, project: ProjectName, after: str | None, limit: int) -> Sequence[Model]:
        """By id; `after` is the id of the last one seen."""
        ...

    async def append(self, version: ModelVersionName, uid: str, now: datetime) -> int:
        """Makes `version` the latest of its model, which is made with `uid` if it is new. Returns
        the version's ordinal: gap-free, because whoever comes second waits."""
        ...


class VersionRows(Protocol):
    """The versions, each with the aliases that point at it."""

    async def add(self, version: ModelVersion) -> bool:
        """False if there is one of its name or of its tuning job."""
        ...

    async def find(self, name: ModelVersionName) -> ModelVersion | None: ...

    async def of_job(self, tuning_job: str) -> ModelVersionName | None: ...

    async def page(
        self, model: ModelName, filter: Filter | None, before: int | None, limit: int
    ) -> Sequence[ModelVersion]:
        """Newest first; `before` is the ordinal of the last one seen."""
        ...


class AliasRows(Protocol):
    """The aliases."""

    async def find(self, name: ModelAliasName) -> ModelAlias | None: ...

    async def lock(self, name: ModelAliasName) -> ModelAlias | None:
        """The alias, which no other transaction can move until this one ends."""
        ...

    async def page(self, model: ModelName, after: str | None, limit: int) -> Sequence[ModelAlias]:
        """By id; `after` is the id of the last one seen."""
        ...

    async def put(self, alias: ModelAlias) -> None: ...

    async def delete(self, name: ModelAliasName) -> None: ...


class RequestRows(Protocol):
    """Calls that were carried out under a request_id; without one every call is a new one."""

    async def reserve(self, key: RequestKey, fingerprint: str) -> str | None:
        """The resource of the same call when it was carried out before; None: from now on the id
        is this call's. Raises InvalidArgument if it was another call's."""
        ...

    async def settle(self, key: RequestKey, resource: str) -> None: ...


class Tables(Protocol):
    """One transaction."""

    @property
    def models(self) -> ModelRows: ...
    @property
    def versions(self) -> VersionRows: ...
    @property
    def aliases(self) -> AliasRows: ...
    @property
    def requests(self) -> RequestRows: ...


class Storage(Protocol):
    """Where models are kept."""

    def reading(self) -> AbstractAsyncContextManager[Tables]:
        """A consistent snapshot."""
        ...

    def writing(self) -> AbstractAsyncContextManager[Tables]:
        """All that is written inside is there at its end, or, after an exception, nothing."""
        ...


class Files(Protocol):
    """Bytes by their sha256."""

    async def read(self, digest: str) -> bytes:
        """A small file. Raises DataLoss `BLOB_MISSING`, Unavailable."""
        ...

    async def exists(self, digest: str) -> bool: ...

    def stream(self, digest: str) -> AsyncIterator[bytes]:
        """Pieces of at most 1 MiB, verified. Raises DataLoss, Unavailable."""
        ...
