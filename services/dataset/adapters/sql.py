"""Datasets, versions and request ids as rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, ColumnElement, ForeignKeyConstraint, UniqueConstraint
from sqlmodel import Field, SQLModel, col, delete, select, update

from services.common.columns import UtcDateTime
from services.common.requests import RequestKey, Requests
from services.common.store import Session, WriteConflict, insert_new
from services.common.tables import service_registry
from services.dataset.domain.header import UploadHeader
from services.dataset.domain.names import DatasetName, VersionName
from services.dataset.domain.resources import Dataset, DatasetVersion, SourceFormat

_UPLOAD = "UploadDatasetVersion"


class Row(SQLModel, registry=service_registry()):
    """Base of this service's tables."""


class DatasetRow(Row, table=True):
    """A dataset. It is locked while a version is added to it."""

    __tablename__: ClassVar[Any] = "datasets"

    project: str = Field(primary_key=True)
    dataset: str = Field(primary_key=True)
    uid: str
    latest_version: str
    version_count: int
    create_time: datetime = Field(sa_type=UtcDateTime)
    update_time: datetime = Field(sa_type=UtcDateTime)


class VersionRow(Row, table=True):
    """A version, never changed. `ordinal` counts from 1 in its dataset."""

    __tablename__: ClassVar[Any] = "dataset_versions"
    __table_args__ = (
        UniqueConstraint("project", "dataset", "ordinal"),
        ForeignKeyConstraint(
            ["project", "dataset"], ["datasets.project", "datasets.dataset"], ondelete="CASCADE"
        ),
    )

    project: str = Field(primary_key=True)
    dataset: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    ordinal: int
    digest: str
    example_count: int = Field(sa_type=BigInteger)
    size_bytes: int = Field(sa_type=BigInteger)
    source_format: str
    source_digest: str
    create_time: datetime = Field(sa_type=UtcDateTime)


class SqlDatasets:
    """The datasets and versions that one transaction sees."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def find(self, name: DatasetName) -> Dataset | None:
        row = await self._row(name)
        return _dataset(row) if row else None

    async def page(self, project: str, *, after: str, limit: int) -> Sequence[Dataset]:
        query = (
            select(DatasetRow)
            .where(col(DatasetRow.project) == project, col(DatasetRow.dataset) > after)
            .order_by(col(DatasetRow.dataset))
            .limit(limit)
        )
        return [_dataset(row) for row in await self._session.exec(query)]

    async def find_version(self, name: VersionName) -> DatasetVersion | None:
        query = select(VersionRow).where(
            *_versions_of(name.parent), col(VersionRow.version) == name.version
        )
        row = (await self._session.exec(query)).one_or_none()
        return _version(row) if row else None

    async def version_page(
        self, dataset: DatasetName, *, after: str, limit: int
    ) -> Sequence[DatasetVersion]:
        query = select(VersionRow).where(*_versions_of(dataset))
        if after:
            bound = select(VersionRow.ordinal).where(
                *_versions_of(dataset), col(VersionRow.version) == after
            )
            query = query.where(col(VersionRow.ordinal) < bound.scalar_subquery())
        newest_first = query.order_by(col(VersionRow.ordinal).desc()).limit(limit)
        return [_version(row) for row in await self._session.exec(newest_first)]

    async def add(self, version: DatasetVersion, *, uid: str) -> DatasetVersion:
        dataset = version.name.parent
        await insert_new(self._session, DatasetRow, _new_dataset(version, uid))
        row = await self._row(dataset, lock=True)
        if row is None:  # deleted by a transaction that committed between the two
            raise WriteConflict
        existing = await self.find_version(version.name)
        if existing is not None:
            return existing
        ordinal = row.version_count + 1
        self._session.add(_new_version(version, ordinal))
        latest = {
            "latest_version": version.name.version,
            "version_count": ordinal,
            "update_time": version.create_time,
        }
        await self._session.exec(update(DatasetRow).where(*_is(dataset)).values(**latest))
        return version

    async def delete(self, name: DatasetName) -> None:
        await self._session.exec(delete(DatasetRow).where(*_is(name)))

    async def _row(self, name: DatasetName, *, lock: bool = False) -> DatasetRow | None:
        query = select(DatasetRow).where(*_is(name))
        return (await self._session.exec(query.with_for_update() if lock else query)).one_or_none()


class SqlUploadRequests:
    """The request ids of uploads."""

    def __init__(self, session: Session) -> None:
        self._requests = Requests(session)

    async def answered(self, header: UploadHeader) -> bool:
        return await self._requests.is_known(_key(header))

    async def reserve(self, header: UploadHeader, fingerprint: str) -> VersionName | None:
        name = await self._requests.reserve(_key(header), fingerprint)
        return VersionName.parse(name) if name else None

    async def settle(self, header: UploadHeader, version: VersionName) -> None:
        await self._requests.settle(_key(header), str(version))


@dataclass(frozen=True)
class DatasetTables:
    """What one transaction can do."""

    datasets: SqlDatasets
    requests: SqlUploadRequests


def dataset_tables(session: Session) -> DatasetTables:
    return DatasetTables(SqlDatasets(session), SqlUploadRequests(session))


def _is(name: DatasetName) -> tuple[ColumnElement[bool], ...]:
    return (col(DatasetRow.project) == name.project, col(DatasetRow.dataset) == name.dataset)


def _versions_of(name: DatasetName) -> tuple[ColumnElement[bool], ...]:
    return (col(VersionRow.project) == name.project, col(VersionRow.dataset) == name.dataset)


def _key(header: UploadHeader) -> RequestKey:
    return RequestKey(header.parent.project, _UPLOAD, header.request_id)


def _new_dataset(version: DatasetVersion, uid: str) -> dict[str, object]:
    """A dataset without a version; it gets one in the same transaction."""
    return {
        "project": version.name.project,
        "dataset": version.name.dataset,
        "uid": uid,
        "latest_version": "",
        "version_count": 0,
        "create_time": version.create_time,
        "update_time": version.create_time,
    }


def _new_version(version: DatasetVersion, ordinal: int) -> VersionRow:
    return VersionRow(
        project=version.name.project,
        dataset=version.name.dataset,
        version=version.name.version,
        ordinal=ordinal,
        digest=version.digest,
        example_count=version.example_count,
        size_bytes=version.size_bytes,
        source_format=version.source_format.value,
        source_digest=version.source_digest,
        create_time=version.create_time,
    )


def _dataset(row: DatasetRow) -> Dataset:
    name = DatasetName(row.project, row.dataset)
    return Dataset(
        name=name,
        uid=row.uid,
        latest_version=name.version(row.latest_version),
        version_count=row.version_count,
        create_time=row.create_time,
        update_time=row.update_time,
    )


def _version(row: VersionRow) -> DatasetVersion:
    return DatasetVersion(
        name=VersionName(row.project, row.dataset, row.version),
        digest=row.digest,
        example_count=row.example_count,
        size_bytes=row.size_bytes,
        source_format=SourceFormat(row.source_format),
        source_digest=row.source_digest,
        create_time=row.create_time,
    )
