"""Models, versions and aliases as rows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import tuple_
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import col, delete, select, update

from services.common.filters import Filter
from services.common.filters_sql import to_sql
from services.common.manifest import FileEntry
from services.common.names import ProjectName
from services.common.requests import Requests
from services.common.store import Session, insert_new
from services.registry.adapters.tables import AliasRow, BaseModelRow, ModelRow, Row, VersionRow
from services.registry.domain.base_models import StoredFiles
from services.registry.domain.models import Lineage, Model, ModelAlias, ModelVersion
from services.registry.domain.names import (
    BaseModelName,
    ModelAliasName,
    ModelName,
    ModelVersionName,
)

_VERSIONS = Row.metadata.tables["versions"].c
_FILTER_COLUMNS: Mapping[str, ColumnElement[Any]] = {
    "tuning_job": _VERSIONS.tuning_job,
    "dataset_version": _VERSIONS.dataset_version,
    "base_model": _VERSIONS.base_model,
    "method": _VERSIONS.method,
    "create_time": _VERSIONS.created_at,
}


class SqlModels:
    """ModelRows over one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def find(self, name: ModelName) -> Model | None:
        row = await self._session.get(ModelRow, (name.project, name.model))
        return None if row is None else _model(row)

    async def page(self, project: ProjectName, after: str | None, limit: int) -> Sequence[Model]:
        rows = select(ModelRow).where(col(ModelRow.project) == project.project)
        if after is not None:
            rows = rows.where(col(ModelRow.model) > after)
        rows = rows.order_by(col(ModelRow.model)).limit(limit)
        return [_model(row) for row in await self._session.exec(rows)]

    async def append(self, version: ModelVersionName, uid: str, now: datetime) -> int:
        key = {"project": version.project, "model": version.model}
        first: dict[str, object] = {
            "uid": uid,
            "latest_version": version.version,
            "version_count": 1,
            "created_at": now,
            "updated_at": now,
        }
        if await insert_new(self._session, ModelRow, {**key, **first}):
            return 1
        count = col(ModelRow.version_count)
        counted = (
            update(ModelRow)
            .filter_by(**key)
            .values(latest_version=version.version, version_count=count + 1, updated_at=now)
            .returning(count)
        )
        return int((await self._session.exec(counted)).scalar_one())


class SqlVersions:
    """VersionRows over one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, version: ModelVersion) -> bool:
        return await insert_new(self._session, VersionRow, _values(version))

    async def find(self, name: ModelVersionName) -> ModelVersion | None:
        row = await self._session.get(VersionRow, (name.project, name.model, name.version))
        if row is None:
            return None
        return (await self._with_aliases([row]))[0]

    async def of_job(self, tuning_job: str) -> ModelVersionName | None:
        rows = select(VersionRow).where(col(VersionRow.tuning_job) == tuning_job)
        row = (await self._session.exec(rows)).one_or_none()
        return None if row is None else ModelVersionName(row.project, row.model, row.version)

    async def page(
        self, model: ModelName, filter: Filter | None, before: int | None, limit: int
    ) -> Sequence[ModelVersion]:
        ordinal = col(VersionRow.ordinal)
        rows = select(VersionRow).where(
            col(VersionRow.project) == model.project, col(VersionRow.model) == model.model
        )
        if filter is not None:
            rows = rows.where(to_sql(filter, _FILTER_COLUMNS))
        if before is not None:
            rows = rows.where(ordinal < before)
        found = await self._session.exec(rows.order_by(ordinal.desc()).limit(limit))
        return await self._with_aliases(found.all())

    async def _with_aliases(self, versions: Sequence[VersionRow]) -> list[ModelVersion]:
        keys = [(row.project, row.model, row.version) for row in versions]
        target = tuple_(col(AliasRow.project), col(AliasRow.model), col(AliasRow.version))
        rows = select(AliasRow).where(target.in_(keys)).order_by(col(AliasRow.alias))
        aliases: defaultdict[str, list[str]] = defaultdict(list)
        for alias in await self._session.exec(rows):
            aliases[alias.version].append(alias.alias)
        return [_version(row, aliases[row.version]) for row in versions]


class SqlAliases:
    """AliasRows over one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def find(self, name: ModelAliasName) -> ModelAlias | None:
        row = (await self._session.exec(select(AliasRow).where(*_is(name)))).one_or_none()
        return None if row is None else _alias(row)

    async def lock(self, name: ModelAliasName) -> ModelAlias | None:
        rows = select(AliasRow).where(*_is(name)).with_for_update()
        row = (await self._session.exec(rows)).one_or_none()
        return None if row is None else _alias(row)

    async def page(self, model: ModelName, after: str | None, limit: int) -> Sequence[ModelAlias]:
        rows = select(AliasRow).where(
            col(AliasRow.project) == model.project, col(AliasRow.model) == model.model
        )
        if after is not None:
            rows = rows.where(col(AliasRow.alias) > after)
        rows = rows.order_by(col(AliasRow.alias)).limit(limit)
        return [_alias(row) for row in await self._session.exec(rows)]

    async def put(self, alias: ModelAlias) -> None:
        key = {
            "project": alias.name.project,
            "model": alias.name.model,
            "alias": alias.name.alias,
        }
        values: dict[str, object] = {
            "version": alias.version.version,
            "move": alias.move,
            "updated_at": alias.update_time,
        }
        if not await insert_new(self._session, AliasRow, {**key, **values}):
            await self._session.exec(update(AliasRow).where(*_is(alias.name)).values(**values))

    async def delete(self, name: ModelAliasName) -> None:
        await self._session.exec(delete(AliasRow).where(*_is(name)))


class SqlBaseModels:
    """What was taken in, over one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def find(self, name: BaseModelName, fingerprint: str) -> StoredFiles | None:
        """The files of a directory that looked like this; None if it never did, or changed."""
        row = await self._session.get(BaseModelRow, name.base_model)
        if row is None or row.fingerprint != fingerprint:
            return None
        return StoredFiles(row.manifest_digest, row.size_bytes)

    async def put(self, name: BaseModelName, fingerprint: str, files: StoredFiles) -> None:
        values: dict[str, object] = {
            "fingerprint": fingerprint,
            "manifest_digest": files.manifest_digest,
            "size_bytes": files.size_bytes,
        }
        row = {"base_model": name.base_model, **values}
        if not await insert_new(self._session, BaseModelRow, row):
            changed = update(BaseModelRow).filter_by(base_model=name.base_model).values(**values)
            await self._session.exec(changed)


@dataclass(frozen=True)
class SqlTables:
    """One transaction."""

    models: SqlModels
    versions: SqlVersions
    aliases: SqlAliases
    requests: Requests
    base_models: SqlBaseModels


def tables_of(session: Session) -> SqlTables:
    return SqlTables(
        SqlModels(session),
        SqlVersions(session),
        SqlAliases(session),
        Requests(session),
        SqlBaseModels(session),
    )


def _is(name: ModelAliasName) -> tuple[ColumnElement[bool], ...]:
    return (
        col(AliasRow.project) == name.project,
        col(AliasRow.model) == name.model,
        col(AliasRow.alias) == name.alias,
    )


def _model(row: ModelRow) -> Model:
    name = ModelName(row.project, row.model)
    return Model(
        name=name,
        uid=row.uid,
        latest_version=name.version(row.latest_version),
        version_count=row.version_count,
        create_time=row.created_at,
        update_time=row.updated_at,
    )


def _values(version: ModelVersion) -> dict[str, object]:
    lineage = version.lineage
    return {
        "project": version.name.project,
        "model": version.name.model,
        "version": version.name.version,
        "uid": version.uid,
        "ordinal": version.ordinal,
        "manifest_digest": version.manifest_digest,
        "artifacts": [[file.path, file.size_bytes, file.sha256] for file in version.artifacts],
        "tuning_job": lineage.tuning_job,
        "dataset_version": lineage.dataset_version,
        "dataset_digest": lineage.dataset_digest,
        "base_model": lineage.base_model,
        "base_model_digest": lineage.base_model_digest,
        "method": lineage.method,
        "hyperparameters": dict(lineage.hyperparameters),
        "code_version": lineage.code_version,
        "start_version": lineage.start_version,
        # As text: JSON has no NaN, and a loss may be one.
        "metrics": {name: repr(value) for name, value in version.metrics.items()},
        "created_at": version.create_time,
    }


def _version(row: VersionRow, aliases: Sequence[str]) -> ModelVersion:
    return ModelVersion(
        name=ModelVersionName(row.project, row.model, row.version),
        uid=row.uid,
        ordinal=row.ordinal,
        manifest_digest=row.manifest_digest,
        artifacts=tuple(FileEntry(*entry) for entry in row.artifacts),
        lineage=Lineage(
            tuning_job=row.tuning_job,
            dataset_version=row.dataset_version,
            dataset_digest=row.dataset_digest,
            base_model=row.base_model,
            base_model_digest=row.base_model_digest,
            method=row.method,
            hyperparameters=row.hyperparameters,
            code_version=row.code_version,
            start_version=row.start_version,
        ),
        metrics={name: float(value) for name, value in row.metrics.items()},
        create_time=row.created_at,
        aliases=tuple(aliases),
    )


def _alias(row: AliasRow) -> ModelAlias:
    model = ModelName(row.project, row.model)
    return ModelAlias(model.alias(row.alias), model.version(row.version), row.move, row.updated_at)
