"""The tables that every service's database has beside its own, and where its own are declared.

A service declares its tables on a base with a registry of its own, because SQLModel's global
metadata would mix the tables of all services that one process imports:

    class Row(SQLModel, registry=service_registry()):
        \"\"\"Base of this service's tables.\"\"\"

    class JobRow(Row, table=True):
        __tablename__: ClassVar[Any] = "jobs"
        name: str = Field(primary_key=True)

`Row.metadata` then holds the service's tables and the common ones: what its migrations make.
"""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Index, LargeBinary, MetaData, UniqueConstraint
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from services.common.columns import AutoId, UtcDateTime

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraints have the same names everywhere, so that a migration can alter them."""


class CommonRow(SQLModel, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Base of the common tables."""


class OutboxRow(CommonRow, table=True):
    """An event that was decided with a change, and is published after it committed."""

    __tablename__: ClassVar[Any] = "outbox"
    __table_args__ = (
        UniqueConstraint("message_id"),
        Index(None, "published_at", "id"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=AutoId)
    message_id: str
    subject: str
    payload: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UtcDateTime)
    published_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class InboxRow(CommonRow, table=True):
    """A message that had its effect: a second delivery has none."""

    __tablename__: ClassVar[Any] = "inbox"
    __table_args__ = (Index(None, "received_at"),)

    consumer: str = Field(primary_key=True)
    message_id: str = Field(primary_key=True)
    received_at: datetime = Field(sa_type=UtcDateTime)


class RequestRow(CommonRow, table=True):
    """A mutation that was carried out under a request_id: a repetition gets the same answer."""

    __tablename__: ClassVar[Any] = "requests"
    __table_args__ = (Index(None, "created_at"),)

    project: str = Field(primary_key=True)
    method: str = Field(primary_key=True)
    request_id: str = Field(primary_key=True)
    fingerprint: str
    resource: str | None = None
    created_at: datetime = Field(sa_type=UtcDateTime)


def service_registry() -> registry:
    """A registry for one service's tables whose metadata holds the common tables as well."""
    metadata = MetaData(naming_convention=NAMING)
    for table in CommonRow.metadata.sorted_tables:
        table.to_metadata(metadata)
    return registry(metadata=metadata)
