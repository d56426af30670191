"""A service's migrations make exactly the tables that it declares, on both databases."""

import asyncio
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlmodel import Field, SQLModel, text

from services.common.migrations import SchemasDisagree, check, upgrade
from services.common.store import Store, open_engine
from services.common.tables import CommonRow, service_registry
from tests.contract.common.notes import Row, tables

ENV = """
from services.common.migrations import run_env
from tests.contract.common.notes import Row

run_env(Row.metadata)
"""

INITIAL = """
import sqlalchemy as sa
from alembic import op
from services.common.migrations import create_common_tables

revision = "0001"
down_revision = None

def upgrade() -> None:
    create_common_tables(op)
    op.create_table(
        "notes", sa.Column("text", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("text", name="pk_notes"),
    )
"""

SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

def upgrade() -> None:
    with op.batch_alter_table("notes") as notes:
        notes.add_column(sa.Column("stars", sa.Integer(), nullable=False, server_default="3"))
    {then}
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    directory = tmp_path / "migrations with 100% odd names"
    (directory / "versions").mkdir(parents=True)
    (directory / "env.py").write_text(ENV)
    (directory / "versions" / "0001_initial.py").write_text(INITIAL)
    return directory


async def test_migrations_and_models_agree(database_url: str, scripts: Path):
    await check(database_url, scripts, Row.metadata)


async def test_a_table_without_a_migration_is_found(database_url: str, scripts: Path):
    class LaterRow(SQLModel, registry=service_registry()):
        """A service whose tables have grown."""

    class StarRow(LaterRow, table=True):
        __tablename__: ClassVar[Any] = "stars"
        name: str = Field(primary_key=True)

    with pytest.raises(SchemasDisagree, match="stars"):
        await check(database_url, scripts, LaterRow.metadata)


async def test_a_second_start_changes_nothing(database_url: str, scripts: Path):
    await upgrade(database_url, scripts)
    store = Store(open_engine(database_url), tables)
    async with store.writing() as db:
        await db.add_note("kept")

    await upgrade(database_url, scripts)

    async with store.reading() as db:
        assert await db.notes() == ["kept"]
    await store.close()


async def test_replicas_that_start_together_take_turns(database_url: str, scripts: Path):
    program = f"asyncio.run(upgrade({database_url!r}, {str(scripts)!r}))"
    imports = "import asyncio; from services.common.migrations import upgrade; "
    replicas = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", imports + program)
        for _ in range(3)
    ]
    assert await asyncio.gather(*(replica.wait() for replica in replicas)) == [0, 0, 0]

    await check(database_url, scripts, Row.metadata)


async def test_rows_survive_an_upgrade(database_url: str, scripts: Path):
    await upgrade(database_url, scripts)
    store = Store(open_engine(database_url), tables)
    async with store.writing() as db:
        await db.add_note("old")
    (scripts / "versions" / "0002_stars.py").write_text(SECOND.format(then=""))

    await upgrade(database_url, scripts)

    async with store.reading() as db:
        rows = (await db.session.exec(text("SELECT text, stars FROM notes"))).all()
    await store.close()
    assert [tuple(row) for row in rows] == [("old", 3)]


async def test_a_migration_that_fails_half_way_leaves_the_schema_as_it_was(
    database_url: str, scripts: Path
):
    await upgrade(database_url, scripts)
    failing = SECOND.format(then='raise RuntimeError("half way")')
    (scripts / "versions" / "0002_stars.py").write_text(failing)

    with pytest.raises(RuntimeError, match="half way"):
        await upgrade(database_url, scripts)

    (scripts / "versions" / "0002_stars.py").unlink()
    await check(database_url, scripts, Row.metadata)


def test_services_do_not_see_each_others_tables():
    other = service_registry().metadata

    assert "notes" in Row.metadata.tables
    assert set(other.tables) == set(CommonRow.metadata.tables) == {"outbox", "inbox", "requests"}
    assert "notes" not in SQLModel.metadata.tables
