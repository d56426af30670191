"""Schemas: each service has alembic migrations, run when it starts, over its async engine.

A service's `migrations/` holds `env.py` (which calls `run_env`), `script.py.mako` and
`versions/`. Its first revision calls `create_common_tables`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from alembic import command, context
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, MetaData
from sqlalchemy.schema import SchemaItem

from services.common.columns import AutoId, UtcDateTime
from services.common.store import connected, open_engine, writing_engine

_CONNECTION = "connection"
_MIGRATION_LOCK = 0x616E6E65616C02
_PREDECESSOR_S = 30.0
"""How long a starting service waits for one that is still letting go of its SQLite file."""


class SchemasDisagree(Exception):
    """The migrations do not make what the tables declare. `differences` are alembic's."""

    def __init__(self, differences: object) -> None:
        super().__init__(f"write a migration for: {differences}")
        self.differences = differences


async def upgrade(url: str, script_location: str | Path) -> None:
    """Brings the database to the newest revision, or leaves it as it was.

    Replicas that start together take turns, but await one upgrade before the next within a
    process: alembic keeps its state in globals. Raises DatabaseUnavailable.
    """
    engine = open_engine(
        url,
        foreign_keys=False,  # a rebuilt table must not cascade its deletes
        busy_timeout_s=_PREDECESSOR_S,
        answer_timeout_s=None,  # a migration takes as long as it takes, and so does a predecessor's
    )
    try:
        async with connected(writing_engine(engine)) as connection:
            await connection.run_sync(_upgrade, str(script_location))
            await connection.commit()
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, script_location: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    config = Config()
    config.set_main_option("script_location", script_location.replace("%", "%%"))
    config.attributes[_CONNECTION] = connection
    command.upgrade(config, "head")
    if connection.dialect.name == "sqlite":
        _check_foreign_keys(connection)


def _check_foreign_keys(connection: Connection) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken:
        raise SchemasDisagree(f"rows without the row that they refer to: {broken}")


def run_env(metadata: MetaData) -> None:
    """What a service's `env.py` consists of."""
    connection: Connection = context.config.attributes[_CONNECTION]
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def check(url: str, script_location: str | Path, metadata: MetaData) -> None:
    """Upgrades the database and raises SchemasDisagree unless it is what `metadata` declares."""
    await upgrade(url, script_location)
    engine = open_engine(url)
    try:
        async with connected(engine) as connection:
            differences = await connection.run_sync(_differences, metadata)
    finally:
        await engine.dispose()
    if differences:
        raise SchemasDisagree(differences)


def _differences(connection: Connection, metadata: MetaData) -> list[object]:
    options = {"compare_type": True}
    return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


class SchemaOperations(Protocol):
    """What `create_common_tables` needs of the module `alembic.op`."""

    def create_table(self, table_name: str, /, *columns: SchemaItem) -> object: ...
    def create_index(
        self, index_name: str, table_name: str, columns: Sequence[str], /
    ) -> object: ...


def create_common_tables(op: SchemaOperations) -> None:
    """The tables of services/common/tables.py, for the first revision of every service. Never
    changed after a release: a later change is another function, called by a later revision."""
    op.create_table(
        "outbox",
        sa.Column("id", AutoId, nullable=False),
        sa.Column("message_id", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("published_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("message_id", name="uq_outbox_message_id"),
    )
    op.create_index("ix_outbox_published_at_id", "outbox", ["published_at", "id"])
    op.create_table(
        "inbox",
        sa.Column("consumer", sa.String(), nullable=False),
        sa.Column("message_id", sa.String(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("consumer", "message_id", name="pk_inbox"),
    )
    op.create_index("ix_inbox_received_at", "inbox", ["received_at"])
    op.create_table(
        "requests",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("resource", sa.String(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("project", "method", "request_id", name="pk_requests"),
    )
    op.create_index("ix_requests_created_at", "requests", ["created_at"])
