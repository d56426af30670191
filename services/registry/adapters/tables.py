"""The tables of this service."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, ForeignKeyConstraint, Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from services.common.columns import UtcDateTime
from services.common.tables import service_registry


class Row(SQLModel, registry=service_registry()):
    """Base of this service's tables."""


def _of_model() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"])


class ModelRow(Row, table=True):
    """A series of versions. `version_count` is also the ordinal of the latest."""

    __tablename__: ClassVar[Any] = "models"

    project: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    uid: str
    latest_version: str
    version_count: int
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class VersionRow(Row, table=True):
    """What one tuning job made; never changed. `artifacts` is a list of [path, bytes, sha256]."""

    __tablename__: ClassVar[Any] = "versions"
    __table_args__ = (
        _of_model(),
        UniqueConstraint("project", "model", "ordinal"),
        UniqueConstraint("tuning_job"),
    )

    project: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    uid: str
    ordinal: int
    manifest_digest: str
    artifacts: list[tuple[str, int, str]] = Field(sa_type=JSON)
    tuning_job: str
    dataset_version: str
    dataset_digest: str
    base_model: str
    base_model_digest: str
    method: str
    hyperparameters: dict[str, Any] = Field(sa_type=JSON)
    code_version: str
    start_version: str
    metrics: dict[str, str] = Field(sa_type=JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)


class AliasRow(Row, table=True):
    """A movable name for a version. `move` is another one after each move."""

    __tablename__: ClassVar[Any] = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(
            ["project", "model", "version"],
            ["versions.project", "versions.model", "versions.version"],
        ),
        Index(None, "project", "model", "version"),
    )

    project: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    alias: str = Field(primary_key=True)
    version: str
    move: str
    updated_at: datetime = Field(sa_type=UtcDateTime)


class BaseModelRow(Row, table=True):
    """A directory that was taken in. `fingerprint` tells whether it has changed since."""

    __tablename__: ClassVar[Any] = "base_models"

    base_model: str = Field(primary_key=True)
    fingerprint: str
    manifest_digest: str
    size_bytes: int = Field(sa_type=BigInteger)
