"""Tables and migrations."""

from dataclasses import replace

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, insert

from services.common.migrations import check, upgrade
from services.common.store import Store, connected, open_engine
from services.trainer.control.__main__ import MIGRATIONS
from services.trainer.control.adapters.rows import changing_values, fixed_values
from services.trainer.control.adapters.sql import trainer_tables
from services.trainer.control.adapters.tables import JobRow, Row
from services.trainer.control.domain.resumes import ResumeCertificate
from services.trainer.control.domain.signals import Signals
from tests.unit.trainer_control.test_jobs import job


def make_first_revision(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")


async def test_migrations_make_the_tables_that_the_code_declares(database_url: str) -> None:
    await check(database_url, MIGRATIONS, Row.metadata)


async def test_a_job_of_the_first_revision_goes_on_after_an_upgrade(database_url: str) -> None:
    engine = open_engine(database_url)
    async with connected(engine) as connection:
        await connection.run_sync(make_first_revision)
        columns = fixed_values(job()) | changing_values(job())
        later = ("priority", "line", "deadline", "retry_of", "retried_as", "origins", "yields")
        for name in (*later, "charged_s", "claim_time", "resumes", "backend", "tuning_sweep"):
            del columns[name]
        await connection.execute(insert(JobRow).values(columns))
        await connection.commit()
    await engine.dispose()

    await upgrade(database_url, MIGRATIONS)

    store = Store(open_engine(database_url), trainer_tables(Signals()))
    resumed = replace(job(), resumes=(ResumeCertificate(2, 50, "ab", "ab", True),))
    async with store.writing() as tables:
        assert await tables.jobs.find(job().name) == job()
        await tables.jobs.replace(job(), resumed)
    async with store.reading() as tables:
        assert await tables.jobs.find(job().name) == resumed
    await store.close()
