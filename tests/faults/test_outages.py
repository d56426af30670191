"""R7, R8: what a job needs is away for a while, and the job does not care."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC
from itertools import pairwise
from pathlib import Path

import pytest

from anneal.errors import Unavailable
from anneal.trainer.v1.tuning_job_pb2 import TuningJob, TuningJobEvent
from services.common.testing.postgres import Postgres
from tests.faults.site import Site
from tests.faults.world import LONG_TRAINING, PATIENCE_S, QUICK, World, steps_of

pytestmark = pytest.mark.timeout(900)

NATS_AWAY_S = {False: 5.0, True: 60.0}
DATABASE_LOCKED_S = {False: 6.0, True: 30.0}
POSTGRES_AWAY_S = {False: 5.0, True: 30.0}
SHORT_LEASE_S = "4"
"""Shorter than any of these outages, as in the long run everybody's is."""


def under_way(desk: World, name: str) -> TuningJob:
    job = desk.create(name, LONG_TRAINING)
    next(event for event in desk.watch(job) if event.step.step >= 5)
    return job


def ended(desk: World, job: TuningJob) -> list[TuningJobEvent]:
    """The history of a job that was told to stop when the outage was over, whole."""
    last_step = desk.client.jobs.get(job.name).progress.step
    next(event for event in desk.watch(job) if event.step.step > last_step)
    desk.client.jobs.cancel(job.name)
    history = list(desk.watch(job))
    assert desk.client.jobs.get(job.name).state == TuningJob.STATE_CANCELLED
    assert [event.sequence for event in history] == list(range(1, len(history) + 1))
    return history


def missing(history: Sequence[TuningJobEvent]) -> int:
    """How many of the events that the job's attempts told are not in its history."""
    numbers: dict[int, list[int]] = {}
    for event in history:
        if event.attempt_sequence:
            numbers.setdefault(event.attempt, []).append(event.attempt_sequence)
    assert all(told == sorted(set(told)) for told in numbers.values())
    return sum(told[-1] - len(told) for told in numbers.values())


def longest_pause_s(history: Sequence[TuningJobEvent], since_s: float, until_s: float) -> float:
    """Between two steps of one attempt, by the engine's clock; at least one of them in the time
    from `since_s` to `until_s`."""
    steps = [(e.attempt, e.time.ToDatetime(UTC).timestamp()) for e in history if e.HasField("step")]
    pauses = [
        later_s - earlier_s
        for (attempt, earlier_s), (other, later_s) in pairwise(steps)
        if attempt == other and later_s >= since_s and earlier_s <= until_s
    ]
    return max(pauses)


@pytest.mark.fault("R7")
def test_training_does_not_wait_for_the_bus(
    site: Site, desk: World, long: bool, tell: Callable[..., None]
) -> None:
    job = under_way(desk, "without-nats")
    began_s = time.time()
    site.kill("nats")
    time.sleep(NATS_AWAY_S[long])
    site.start("nats")
    healed_s = time.time()
    history = ended(desk, job)
    steps = steps_of(history)
    assert (steps, missing(history)) == (list(range(1, len(steps) + 1)), 0)
    assert desk.client.jobs.get(job.name).attempt == 1
    during = longest_pause_s(history, began_s, healed_s)
    before = longest_pause_s(history, 0, began_s)
    told_in_time = [e for e in history if began_s < e.time.ToDatetime(UTC).timestamp() < healed_s]
    tell(
        "R7",
        nats_away_s=healed_s - began_s,
        steps_meanwhile=len(steps_of(told_in_time)),
        longest_pause_s=during,
        longest_pause_before_s=before,
        progress_rows_missing=missing(history),
    )
    assert during < NATS_AWAY_S[long] / 2, "a step that waited for the bus would take all of it"


@contextmanager
def locked(database: Path) -> Generator[None]:
    """Nobody else can write."""
    with sqlite3.connect(database, isolation_level=None) as connection:
        connection.execute("PRAGMA busy_timeout=20000")
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")
    connection.close()


@pytest.mark.fault("R8")
def test_a_locked_database_costs_time_and_nothing_else(
    site: Site, desk: World, long: bool, tell: Callable[..., None]
) -> None:
    job = under_way(desk, "locked-out")
    began_s = time.time()
    with locked(site.database("trainer")):
        time.sleep(DATABASE_LOCKED_S[long])
    unlocked_s = time.time()
    events = desk.client.jobs.get(job.name).progress.step
    recovered_s = site.wait_for(
        lambda: desk.client.jobs.get(job.name).progress.step > events, "progress", PATIENCE_S
    )
    history = ended(desk, job)
    tell(
        "R8",
        what="SQLite locked",
        away_s=unlocked_s - began_s,
        recovered_after_s=recovered_s,
        attempts=desk.client.jobs.get(job.name).attempt,
        progress_rows_missing=missing(history),
        wrong_terminal_states=0,
    )
    assert missing(history) == 0


@pytest.fixture
def postgres_desk(
    tough_desk: tuple[Site, World], durable_postgres: Postgres, long: bool
) -> Generator[tuple[Site, World]]:
    """In the long run every service is on this server, else trainer control alone."""
    site, _ = tough_desk
    if long:
        yield tough_desk
        return
    url = asyncio.run(durable_postgres.empty_database())
    restart_control(site, ANNEAL_DATABASE_URL=url, ANNEAL_LEASES_LEASE_S=SHORT_LEASE_S)
    yield tough_desk
    restart_control(site)


def restart_control(site: Site, **environment: str) -> None:
    site.stop("trainer")
    site.start("trainer", **environment)
    site.await_serving("trainer")


@pytest.mark.fault("R8")
def test_training_goes_on_while_postgresql_is_away(
    postgres_desk: tuple[Site, World],
    durable_postgres: Postgres,
    long: bool,
    tell: Callable[..., None],
) -> None:
    site, desk = postgres_desk
    job = under_way(desk, "without-rows")
    next_job = desk.create("waits-for-rows", QUICK)
    with ThreadPoolExecutor() as threads:
        watching = threads.submit(lambda: list(desk.watch(job)))
        known_step = desk.client.jobs.get(job.name).progress.step
        began_s = time.time()
        durable_postgres.stop()
        time.sleep(max(0.0, began_s + POSTGRES_AWAY_S[long] - time.time()))
        durable_postgres.start()
        back_s = time.time()
        recovered_s = site.wait_for(lambda: is_beyond(desk, job, known_step), "progress", 30.0)
        history = ended(desk, job)
        next_history = list(desk.watch(next_job))
        seen = watching.result()
    during = longest_pause_s(history, began_s, back_s)
    told_in_time = [e for e in history if began_s < e.time.ToDatetime(UTC).timestamp() < back_s]
    tell(
        "R8",
        what="PostgreSQL stopped",
        away_s=back_s - began_s,
        recovered_after_s=recovered_s,
        steps_meanwhile=len(steps_of(told_in_time)),
        longest_pause_s=during,
        attempts=desk.client.jobs.get(job.name).attempt,
        progress_rows_missing=missing(history) + missing(next_history),
        wrong_terminal_states=0,
    )
    assert seen == history, "the watcher heard all of it"
    assert (missing(history), missing(next_history)) == (0, 0)
    assert during < back_s - began_s, "a step that waited would take all of it"
    assert history[-1].attempt == 1, "its node was never gone"
    assert desk.only_adapter(next_job)


def is_beyond(desk: World, job: TuningJob, step: int) -> bool:
    """Not as long as nobody answers."""
    with suppress(Unavailable):
        return desk.client.jobs.get(job.name).progress.step > step
    return False
