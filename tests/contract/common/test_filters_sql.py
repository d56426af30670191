"""A filter selects the same rows on both databases, and its values never become SQL."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import JSON, BigInteger
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Field, SQLModel, col, select

from services.common.columns import UtcDateTime
from services.common.faults import InvalidArgument
from services.common.filters import ENUM, MAP, NUMBER, TEXT, TIME, parse
from services.common.filters_sql import to_sql
from services.common.store import Session, Store, open_engine
from services.common.tables import service_registry

FIELDS = {
    "display_name": TEXT,
    "state": ENUM(["QUEUED", "RUNNING", "FAILED"]),
    "steps": NUMBER,
    "create_time": TIME,
    "labels": MAP,
}


class Row(SQLModel, registry=service_registry()):
    """Base of the tables of this test."""


class JobRow(Row, table=True):
    __tablename__: ClassVar[Any] = "jobs"

    id: str = Field(primary_key=True)
    display_name: str | None = None
    state: str
    steps: int = Field(sa_type=BigInteger)
    create_time: datetime = Field(sa_type=UtcDateTime)
    labels: dict[str, str] = Field(sa_type=JSON)


COLUMNS = {
    "display_name": col(JobRow.display_name),
    "state": col(JobRow.state),
    "steps": col(JobRow.steps),
    "create_time": col(JobRow.create_time),
    "labels": col(JobRow.labels),
}


def job(id: str, state: str, steps: int, day: int, **labels: str) -> JobRow:
    name = None if id == "nameless" else f"Job {id} 100%_"
    created = datetime(2026, 1, day, tzinfo=UTC)
    return JobRow(
        id=id, display_name=name, state=state, steps=steps, create_time=created, labels=labels
    )


@pytest.fixture
async def store(database_url: str) -> AsyncGenerator[Store[Session]]:
    engine = open_engine(database_url)
    store = Store(engine, lambda session: session)
    async with engine.begin() as connection:
        await connection.run_sync(Row.metadata.create_all)
    async with store.writing() as session:
        session.add(job("a", "QUEUED", 10, 1, team="nlp"))
        session.add(job("b", "RUNNING", 20, 2, team="vision", tier="gold"))
        session.add(job("c", "FAILED", 30, 3))
        session.add(job("nameless", "QUEUED", 2**40, 4, team="nlp"))
    yield store
    await store.close()


async def selected(store: Store[Session], text: str) -> list[str]:
    filter = parse(text, FIELDS)
    assert filter is not None
    async with store.reading() as session:
        ids = select(JobRow.id).where(to_sql(filter, COLUMNS)).order_by(col(JobRow.id))
        return list(await session.exec(ids))


SELECTED = {
    "state = QUEUED": ["a", "nameless"],
    "state != QUEUED": ["b", "c"],
    'display_name = "Job a 100%_"': ["a"],
    'display_name != "Job a 100%_"': ["b", "c", "nameless"],
    "display_name:job": ["a", "b", "c"],
    'display_name:"100%_"': ["a", "b", "c"],
    'display_name:"%a%"': [],
    'display_name:"_a_"': [],
    "NOT display_name:job": ["nameless"],
    "steps > 10": ["b", "c", "nameless"],
    "steps >= 10.5": ["b", "c", "nameless"],
    "steps <= 20 AND steps != 10": ["b"],
    "steps = 1099511627776": ["nameless"],
    "steps < 9223372036854775807": ["a", "b", "c", "nameless"],
    "steps > -1e300": ["a", "b", "c", "nameless"],
    'create_time >= "2026-01-03T00:00:00Z"': ["c", "nameless"],
    'create_time < "2026-01-01T01:00:00+01:00"': [],
    'labels.team = "nlp"': ["a", "nameless"],
    'labels.team != "nlp"': ["b", "c"],
    'NOT labels.team = "nlp"': ["b", "c"],
    "labels:tier": ["b"],
    "NOT labels:team": ["c"],
    "state = RUNNING AND steps = 20 OR steps = 30": ["b"],
    "steps = 10 OR steps = 20 AND state = RUNNING": ["b"],
    "(steps = 10) OR (steps = 20 AND state = RUNNING)": ["a", "b"],
    "NOT (steps = 10 OR steps = 20)": ["c", "nameless"],
    "NOT NOT steps = 10": ["a"],
}


async def test_each_filter_selects_its_rows(store: Store[Session]):
    assert {text: await selected(store, text) for text in SELECTED} == SELECTED


HOSTILE = [
    "'; DROP TABLE jobs; --",
    '" OR 1=1 --',
    "\\'; DELETE FROM jobs",
    "%",
    "🦀\u202e\n",
    ":id",
    "$1",
    "?",
]


async def test_hostile_values_select_nothing_and_harm_nothing(store: Store[Session]):
    for hostile in HOSTILE:
        escaped = hostile.replace("\\", "\\\\").replace('"', '\\"')
        for field in ("display_name =", "labels.team ="):
            assert await selected(store, f'{field} "{escaped}"') == []
        assert await selected(store, f'display_name : "Job{escaped}"') == []

    assert len(await selected(store, "steps > 0")) == 4


@given(st.text(max_size=40))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_value_ever_appears_in_the_sql_text(value: str):
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    try:
        filter = parse(f'display_name = "{escaped}" AND labels.team = "{escaped}"', FIELDS)
        harmless = parse('display_name = "x" AND labels.team = "x"', FIELDS)
    except InvalidArgument:  # a NUL, half a surrogate pair
        return
    assert filter is not None
    assert harmless is not None
    for dialect in (postgresql.dialect(), sqlite.dialect()):
        assert str(to_sql(filter, COLUMNS).compile(dialect=dialect)) == str(
            to_sql(harmless, COLUMNS).compile(dialect=dialect)
        )
