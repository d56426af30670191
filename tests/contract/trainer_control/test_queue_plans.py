"""The queue reads what it needs and no more, however many jobs wait."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from benchmarks.queue_jobs import fill, opened, queued_job
from services.common.store import Store
from services.trainer.control.adapters.sql import TrainerTables
from services.trainer.control.domain.queue.lines import line_of

LINES = "ix_jobs_line_create_time_name"
HELD = "ix_jobs_state"
JOBS = 2_000

Question = Callable[[TrainerTables], Awaitable[object]]


@pytest.fixture
async def store(database_url: str) -> AsyncGenerator[Store[TrainerTables]]:
    """Two thousand waiting jobs in twenty lines."""
    async with opened(database_url) as filled:
        async with filled.reading() as tables:
            begin = await tables.now() - timedelta(hours=1)
        jobs = [
            queued_job(f"project-{number % 20}", number, begin + timedelta(seconds=number))
            for number in range(JOBS)
        ]
        await fill(filled, jobs)
        if filled.engine.dialect.name == "postgresql":
            async with filled.engine.begin() as connection:
                await connection.exec_driver_sql("ANALYZE jobs")
        yield filled


async def plan(store: Store[TrainerTables], ask: Question) -> str:
    """How the database answers the last statement of the question."""
    asked: list[tuple[str, Any]] = []

    def seen(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        asked.append((statement, parameters))

    event.listen(store.engine.sync_engine, "before_cursor_execute", seen)
    try:
        async with store.writing() as tables:
            await ask(tables)
    finally:
        event.remove(store.engine.sync_engine, "before_cursor_execute", seen)
    explain = "EXPLAIN QUERY PLAN" if store.engine.dialect.name == "sqlite" else "EXPLAIN"
    statement, parameters = next(one for one in reversed(asked) if "jobs" in one[0])
    async with store.engine.connect() as connection:
        rows = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
        return "\n".join(str(row[-1]) for row in rows)


async def test_the_lines_are_found_by_leaps_through_their_index(
    store: Store[TrainerTables],
) -> None:
    async def ask(tables: TrainerTables) -> object:
        return await tables.queue.waiting(await tables.now())

    found = await plan(store, ask)

    assert found.count(LINES) >= 2  # where the least line stands, PostgreSQL may know otherwise
    assert "Seq Scan on jobs" not in found
    scans = [step for step in found.splitlines() if "SCAN jobs" in step]
    assert all(LINES in step for step in scans)  # the very first row of it, and no other


async def test_the_head_of_a_line_is_found_by_its_index(store: Store[TrainerTables]) -> None:
    wanted = line_of(
        "project-3", queued_job("project-3", 0, datetime(2026, 1, 1, tzinfo=UTC)).spec.settings
    )

    async def ask(tables: TrainerTables) -> object:
        now = await tables.now()
        return await tables.queue.take(wanted, "node-a", now, timedelta(seconds=30), 60.0)

    assert LINES in await plan(store, ask)


@pytest.mark.parametrize("question", ["running_jobs", "running"])
async def test_the_jobs_that_nodes_hold_are_found_among_those_alone(
    store: Store[TrainerTables], question: str
) -> None:
    async def ask(tables: TrainerTables) -> object:
        return await getattr(tables.queue, question)()

    assert HELD in await plan(store, ask)


async def test_the_nodes_that_hold_jobs_are_found_among_these_jobs_alone(
    store: Store[TrainerTables],
) -> None:
    async def ask(tables: TrainerTables) -> object:
        return await tables.nodes.there(await tables.now())

    assert HELD in await plan(store, ask)
