"""Jobs for the queue's benchmarks, and a database to have them in."""

import tempfile
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlmodel import insert

from services.common.migrations import upgrade
from services.common.store import Store, database_now, open_engine
from services.common.testing.postgres import Postgres, postgres
from services.trainer.control.__main__ import MIGRATIONS
from services.trainer.control.adapters.rows import changing_values, fixed_values
from services.trainer.control.adapters.sql import Now, TrainerTables, trainer_tables
from services.trainer.control.adapters.tables import JobRow
from services.trainer.control.domain.job import JobSpec, ManifestSource, TuningJob
from services.trainer.control.domain.names import (
    BaseModelName,
    DatasetVersionName,
    ModelName,
    TuningJobName,
)
from services.trainer.control.domain.settings import JobSettings
from services.trainer.control.domain.signals import Signals

_AT_ONCE = 2_000


def queued_job(project: str, number: int, now: datetime, **settings: Any) -> TuningJob:
    spec = JobSpec(
        base_model=BaseModelName("tiny-base"),
        base_model_digest="ee" * 32,
        base_model_source=ManifestSource("ee" * 32),
        dataset_version=DatasetVersionName(project, "support", "v-1234567890abcdef"),
        dataset_digest="dd" * 32,
        model=ModelName(project, "support"),
        settings=JobSettings.model_validate({"method": {"kind": "lora"}, **settings}),
    )
    return TuningJob(
        name=TuningJobName(project, f"job-{number}"),
        uid=f"uid-{number}",
        spec=spec,
        create_time=now,
        update_time=now,
        ready_time=now,
        event_count=1,
    )


async def fill(store: Store[TrainerTables], jobs: Sequence[TuningJob]) -> None:
    """Writes all of them, without their histories."""
    for begin in range(0, len(jobs), _AT_ONCE):
        part = jobs[begin : begin + _AT_ONCE]
        async with store.writing() as tables:
            rows = [fixed_values(job) | changing_values(job) for job in part]
            await tables.session.exec(insert(JobRow), params=rows)


@asynccontextmanager
async def opened(url: str, now: Now = database_now) -> AsyncGenerator[Store[TrainerTables]]:
    """An empty database with the trainer's tables."""
    await upgrade(url, MIGRATIONS)
    store = Store(open_engine(url), trainer_tables(Signals(), now))
    try:
        yield store
    finally:
        await store.close()


@contextmanager
def sqlite_file() -> Generator[str]:
    """The URL of a database in a directory that is removed again."""
    with tempfile.TemporaryDirectory(prefix="anneal-bench-") as directory:
        yield f"sqlite+aiosqlite:///{Path(directory) / 'rows.db'}"


@contextmanager
def postgres_server() -> Generator[Postgres]:
    """A server that syncs to disk, as in production."""
    with (
        tempfile.TemporaryDirectory(prefix="anneal-pg-") as directory,
        postgres(Path(directory) / "data") as server,
    ):
        yield server


@contextmanager
def told_statements(store: Store[TrainerTables]) -> Generator[list[str]]:
    """All that this process says to the database."""
    told: list[str] = []

    def tell(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        told.append(statement)

    event.listen(store.engine.sync_engine, "before_cursor_execute", tell)
    try:
        yield told
    finally:
        event.remove(store.engine.sync_engine, "before_cursor_execute", tell)
