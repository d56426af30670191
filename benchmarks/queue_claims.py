"""What a claim costs, by how many jobs wait."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from benchmarks.queue_jobs import fill, opened, postgres_server, queued_job, sqlite_file
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
CLAIMS = 200
_POLICY = LeasePolicy(events_grace_s=0)
_ENDED = Failure(Cause.INVALID_JOB)
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
    """Of claims that each got a job: milliseconds."""

    database: str
    queued: int
    lines: int
    p50_ms: float
    p99_ms: float
    decisions_per_second: float


async def measure(store: Store[TrainerTables], database: str, queued: int) -> Figures:
    """Fills an empty database and claims from it. At most NODES jobs run at a time."""
    await fill(store, await _jobs(store, queued))
    leases = NodeLeases(store, Signals(), _POLICY)
    running: deque[TuningJob] = deque()
    taken_ms: list[float] = []
    async with store.reading() as tables:
        lines = len(await tables.queue.waiting(await tables.now()))
    for number in range(min(CLAIMS, queued // 2)):
        claim = _claim(number)
        began = time.perf_counter()
        lease = await leases.claim(claim, 0)
        taken_ms.append(1000 * (time.perf_counter() - began))
        if lease is not None:
            running.append(lease.job)
        if len(running) >= NODES:
            done = running.popleft()
            await leases.end(done.name, done.attempt, _ENDED, 0)
    p50, p99 = percentile(taken_ms, 0.5), percentile(taken_ms, 0.99)
    return Figures(database, queued, lines, p50, p99, 1000 * len(taken_ms) / sum(taken_ms))


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


async def _measured(url: str, database: str, queued: int) -> Figures:
    async with opened(url) as store:
        return await measure(store, database, queued)


def main() -> None:
    table = Table("database", "queued", "lines", "p50, ms", "p99, ms", "decisions/s")
    for queued in SIZES:
        with _databases() as urls:
            for database, url in urls.items():
                found = asyncio.run(_measured(url, database, queued))
                table.add_row(
                    database,
                    f"{found.queued:,}",
                    f"{found.lines:,}",
                    f"{found.p50_ms:.1f}",
                    f"{found.p99_ms:.1f}",
                    f"{found.decisions_per_second:,.0f}",
                )
    Console(width=100).print(table)
