"""The use cases around models, versions and aliases."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from services.common.clock import Clock
from services.common.etags import require_match
from services.common.filters import TEXT, TIME, FieldKind, Filter
from services.common.ids import NewId
from services.common.manifest import FileEntry
from services.common.names import ProjectName
from services.common.paging import Key, Page
from services.common.request_ids import RequestKey
from services.registry.domain.errors import (
    ArtifactNotFound,
    ModelAliasNotFound,
    ModelNotFound,
    ModelVersionNotFound,
)
from services.registry.domain.models import Model, ModelAlias, ModelVersion
from services.registry.domain.names import (
    LATEST,
    ModelAliasName,
    ModelName,
    ModelVersionName,
)
from services.registry.domain.ports import Files, Storage, Tables

VERSION_FILTER: Mapping[str, FieldKind] = {
    "tuning_job": TEXT,
    "dataset_version": TEXT,
    "base_model": TEXT,
    "method": TEXT,
    "create_time": TIME,
}


@dataclass(frozen=True)
class Piece:
    """The next bytes of the file at `path`; an empty file has one empty piece."""

    path: str
    chunk: bytes


@dataclass(frozen=True)
class AliasMove:
    """Where an alias shall point. An empty `etag` means: wherever it points now."""

    alias: ModelAliasName
    version: ModelVersionName
    etag: str
    allow_missing: bool
    request: RequestKey
    fingerprint: str


class Models:
    """Reads models and versions, hands out files, moves aliases."""

    def __init__(self, storage: Storage, files: Files, clock: Clock, new_uid: NewId) -> None:
        self._storage = storage
        self._files = files
        self._clock = clock
        self._new_uid = new_uid

    async def get(self, name: ModelName) -> Model:
        """Raises ModelNotFound."""
        async with self._storage.reading() as tables:
            return await _model(tables, name)

    async def page(self, project: ProjectName, after: Key | None, size: int) -> Page[Model]:
        """The models of a project, by name."""
        async with self._storage.reading() as tables:
            rows = await tables.models.page(project, _text(after), size + 1)
        return Page[Model].cut(rows, size, lambda model: (model.name.model,))

    async def version(self, name: ModelVersionName) -> ModelVersion:
        """A version, or the latest. Raises ModelVersionNotFound."""
        async with self._storage.reading() as tables:
            return await _version(tables, name)

    async def versions(
        self, model: ModelName, filter: Filter | None, after: Key | None, size: int
    ) -> Page[ModelVersion]:
        """The versions of a model, newest first. Raises ModelNotFound."""
        before = None if after is None else int(after[0])
        async with self._storage.reading() as tables:
            await _model(tables, model)
            rows = await tables.versions.page(model, filter, before, size + 1)
        return Page[ModelVersion].cut(rows, size, lambda version: (version.ordinal,))

    async def download(self, name: ModelVersionName, paths: Sequence[str]) -> AsyncIterator[Piece]:
        """The files at `paths`, or all, one after the other, by path.

        Raises ModelVersionNotFound and ArtifactNotFound before the first piece; DataLoss.
        """
        for entry in _chosen(await self.version(name), paths):
            empty = True
            async for chunk in self._files.stream(entry.sha256):
                yield Piece(entry.path, chunk)
                empty = False
            if empty:
                yield Piece(entry.path, b"")

    async def alias(self, name: ModelAliasName) -> ModelAlias:
        """Raises ModelAliasNotFound."""
        async with self._storage.reading() as tables:
            return _found(await tables.aliases.find(name), name)

    async def aliases(self, model: ModelName, after: Key | None, size: int) -> Page[ModelAlias]:
        """The aliases of a model, by name. Raises ModelNotFound."""
        async with self._storage.reading() as tables:
            await _model(tables, model)
            rows = await tables.aliases.page(model, _text(after), size + 1)
        return Page[ModelAlias].cut(rows, size, lambda alias: (alias.name.alias,))

    async def move_alias(self, move: AliasMove) -> ModelAlias:
        """Points an alias to a version of its model. To where it points already is no move.

        Raises ModelAliasNotFound, ModelVersionNotFound, Aborted STALE_ETAG, InvalidArgument.
        """
        async with self._storage.writing() as tables:
            if await tables.requests.reserve(move.request, move.fingerprint) is not None:
                return _found(await tables.aliases.find(move.alias), move.alias)
            moved = await self._moved(tables, move)
            await tables.requests.settle(move.request, str(move.alias))
            return moved

    async def delete_alias(self, name: ModelAliasName, etag: str) -> None:
        """Raises ModelAliasNotFound, Aborted STALE_ETAG."""
        async with self._storage.writing() as tables:
            alias = _found(await tables.aliases.lock(name), name)
            require_match(etag, alias.etag)
            await tables.aliases.delete(name)

    async def _moved(self, tables: Tables, move: AliasMove) -> ModelAlias:
        current = await tables.aliases.lock(move.alias)
        if current is None and not move.allow_missing:
            raise ModelAliasNotFound(move.alias)
        require_match(move.etag, "" if current is None else current.etag)
        version = await _version(tables, move.version)
        if current is not None and current.version == version.name:
            return current
        alias = ModelAlias(move.alias, version.name, self._new_uid(), self._clock.now())
        await tables.aliases.put(alias)
        return alias


async def _model(tables: Tables, name: ModelName) -> Model:
    model = await tables.models.find(name)
    if model is None:
        raise ModelNotFound(name)
    return model


async def _version(tables: Tables, name: ModelVersionName) -> ModelVersion:
    wanted = name
    if name.version == LATEST:
        model = await tables.models.find(name.of_model())
        if model is None:
            raise ModelVersionNotFound(name)
        wanted = model.latest_version
    version = await tables.versions.find(wanted)
    if version is None:
        raise ModelVersionNotFound(name)
    return version


def _found(alias: ModelAlias | None, name: ModelAliasName) -> ModelAlias:
    if alias is None:
        raise ModelAliasNotFound(name)
    return alias


def _chosen(version: ModelVersion, paths: Sequence[str]) -> Sequence[FileEntry]:
    by_path = {entry.path: entry for entry in version.artifacts}
    for path in paths:
        if path not in by_path:
            raise ArtifactNotFound(version.name, path)
    return [by_path[path] for path in sorted(set(paths) or by_path)]


def _text(key: Key | None) -> str | None:
    return None if key is None else str(key[0])
