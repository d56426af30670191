"""What a claim costs, by how many jobs wait, and what of it is the database's commit."""

import asyncio
import gc
import os
import random
import statistics
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from benchmarks.queue_jobs import (
    fill,
    opened,
    postgres_server,
    queued_job,
    sqlite_file,
    told_statements,
)
from benchmarks.rounds import percentile
from services.common.store import Store
from services.trainer.control.adapters.sql import TrainerTables
from services.trainer.control.domain.endings import Cause, Failure
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.node_leases import Claim, LeasePolicy, NodeLeases
from services.trainer.control.domain.queue.requirements import Priority
from services.trainer.control.domain.signals import Signals

PROJECTS = 50
NODES = 64
SIZES = (100, 1_000, 10_000, 100_000)
WARM_UP = 20
CLAIMS = 200
_POLICY = LeasePolicy(events_grace_s=0)
_BACK = Failure(Cause.PREEMPTED)
_PRIORITIES = random.Random(5).choices(list(Priority), [1, 7, 1, 1], k=1_000)
_REQUIREMENTS = (
    {},
    {},
    {},
    {"node_labels": {"gpu": "h200"}},
    {"device_count": 2, "device_memory_bytes": 2**30},
)
_LABELS = ({}, {"gpu": "h200"}, {"gpu": "h200", "region": "eu"})


@dataclass(frozen=True)
class Figures:
    """Of claims that each got a job, and of bare commits in between: milliseconds."""

    lines: int
    statements: float
    claims_ms: Sequence[float]
    commits_ms: Sequence[float]


async def prepare(store: Store[TrainerTables], queued: int) -> None:
    """Fills an empty database, and tidies up as the service does when it begins."""
    await fill(store, await _jobs(store, queued))
    gc.collect()
    gc.freeze()


async def measure(store: Store[TrainerTables], queued: int) -> Figures:
    """Claims from a queue of a constant length: a quarter of the jobs run, NODES at most, and then
    one goes back to its place for each that begins."""
    leases = NodeLeases(store, Signals(), _POLICY)
    running: deque[TuningJob] = deque()
    claims_ms: list[float] = []
    commits_ms: list[float] = []
    counts: list[int] = []
    with told_statements(store) as told:
        for number in range(WARM_UP + CLAIMS):
            if len(running) >= min(NODES, queued // 4):
                done = running.popleft()
                await leases.end(done.name, done.attempt, _BACK, 0)
            commits_ms.append(await _commit_ms(store))
            told.clear()
            began = time.perf_counter()
            lease = await leases.claim(_claim(number), 0)
            claims_ms.append(1000 * (time.perf_counter() - began))
            counts.append(len(told))
            if lease is None:
                raise LookupError(f"claim {number} got no job of {queued}")
            running.append(lease.job)
    measured = slice(WARM_UP, None)
    return Figures(
        lines=await _line_count(store),
        statements=statistics.median(counts[measured]),
        claims_ms=claims_ms[measured],
        commits_ms=commits_ms[measured],
    )


async def _line_count(store: Store[TrainerTables]) -> int:
    async with store.reading() as tables:
        return len(await tables.queue.waiting(await tables.now()))


async def _commit_ms(store: Store[TrainerTables]) -> float:
    """Of the least that can be written."""
    async with store.engine.connect() as connection:
        await connection.execute(text("UPDATE queue SET id = id"))
        began = time.perf_counter()
        await connection.commit()
        return 1000 * (time.perf_counter() - began)


async def _jobs(store: Store[TrainerTables], count: int) -> list[TuningJob]:
    """A few projects send most of them."""
    async with store.reading() as tables:
        now = await tables.now() - timedelta(hours=1)
    draw = random.Random(count)
    return [
        queued_job(
            f"project-{min(int(draw.expovariate(0.1)), PROJECTS - 1)}",
            number,
            now + timedelta(milliseconds=number % 1_000),
            priority=_PRIORITIES[number % len(_PRIORITIES)],
            requirements=draw.choice(_REQUIREMENTS),
        )
        for number in range(count)
    ]


def _claim(number: int) -> Claim:
    node = number % NODES
    labels = _LABELS[node % len(_LABELS)]
    return Claim(f"node-{node}", f"claim-{number}", labels=labels)


@contextmanager
def _databases() -> Generator[dict[str, str]]:
    """An empty one of each kind."""
    with sqlite_file() as url, postgres_server() as server:
        yield {"SQLite": url, "PostgreSQL": asyncio.run(server.empty_database())}


async def _measured(url: str, queued: int) -> Figures:
    async with opened(url) as store:
        await prepare(store, queued)
        return await measure(store, queued)


def _row(database: str, queued: int, found: Figures) -> list[str]:
    shares = (0.5, 0.99)
    times_ms = [
        percentile(taken, one) for taken in (found.claims_ms, found.commits_ms) for one in shares
    ]
    return [
        database,
        f"{queued:,}",
        f"{found.lines:,}",
        f"{found.statements:.0f}",
        *(f"{one:.1f}" for one in times_ms),
        f"{os.getloadavg()[0]:.1f}",
    ]


def main() -> None:
    times = ("p50, ms", "p99, ms", "a commit's p50", "p99")
    table = Table("database", "queued", "lines", "statements", *times, "load")
    for queued in SIZES:
        with _databases() as urls:
            for database, url in urls.items():
                table.add_row(*_row(database, queued, asyncio.run(_measured(url, queued))))
    Console(width=100).print(table)
