"""A simulated day of the queue: the real code on a SQLite file, under a clock that is driven."""

import asyncio
import heapq
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from random import Random

from rich.console import Console
from rich.table import Table

from benchmarks.queue_jobs import opened, queued_job, sqlite_file
from benchmarks.rounds import percentile
from services.common.store import Store
from services.trainer.control.adapters.sql import TrainerTables
from services.trainer.control.domain.changes import enter
from services.trainer.control.domain.checkpoints import Checkpoint
from services.trainer.control.domain.endings import Cause, Failure, Result
from services.trainer.control.domain.estimation.architecture import Architecture, LinearLayers
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.estimation.sizes import Sizes
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.node_leases import (
    Beat,
    Claim,
    Kept,
    LeasePolicy,
    NodeLeases,
)
from services.trainer.control.domain.nodes import LATELY
from services.trainer.control.domain.progress import Stepped, Telemetry
from services.trainer.control.domain.queue.claims import join
from services.trainer.control.domain.queue.forecast import QueuePlace, forecast
from services.trainer.control.domain.queue.lines import line_of
from services.trainer.control.domain.queue.preemption import Preemption
from services.trainer.control.domain.queue.requirements import Priority
from services.trainer.control.domain.signals import Signals
from services.trainer.control.domain.states import Directive
from services.trainer.control.domain.telemetry import hear

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
STEP_S = 1.0
_MODEL = Architecture(
    model_type="llama",
    parameter_count=110_000_000,
    hidden_size=768,
    layer_count=12,
    head_count=12,
    key_value_head_count=12,
    head_size=64,
    intermediate_size=2048,
    gated_feed_forward=True,
    vocabulary_size=32_000,
    tied_embeddings=True,
    linear_layers=(LinearLayers(name="q_proj", input_size=768, output_size=768, count=12),),
)
_RESULT = Result("ab" * 32)
_POLICY = LeasePolicy(lease_s=3600, events_grace_s=0)


@dataclass(frozen=True)
class Day:
    """What comes, and what there is to train it: durations are lognormal, of this median. `swing`
    is by how much more comes in the middle of the day than at night, 0 to 1; `contention_s` is how
    long a project must have had work waiting for its part to be counted."""

    jobs: int = 10_000
    projects: int = 50
    nodes: int = 64
    hours: float = 24.0
    median_s: float = 360.0
    sigma: float = 1.0
    swing: float = 0.67
    contention_s: float = 3600.0
    beat_s: float = 600.0
    forecast_every_s: float = 1800.0
    forecasts_at_once: int = 8
    seed: int = 7


@dataclass(frozen=True)
class Sent:
    """A job as it is sent: it needs so many seconds of a node, and nobody knows."""

    at_s: float
    job: TuningJob
    seconds: float


@dataclass
class Training:
    """A job that a node trains. It has done `done_s` of its work when this attempt began."""

    job: TuningJob
    node: int
    begun_s: float
    done_s: float


@dataclass
class Account:
    """A project: device-seconds that it had while it was backlogged, and those that were due."""

    had_s: float = 0.0
    due_s: float = 0.0
    seconds: float = 0.0


@dataclass
class Figures:
    """Of a day. Waits are seconds from a job's arrival to its first start."""

    jobs: int = 0
    decisions: int = 0
    deciding_s: float = 0.0
    preemptions: int = 0
    lost_s: float = 0.0
    waits: dict[tuple[str, Priority], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    accounts: dict[str, Account] = field(default_factory=lambda: defaultdict(Account))
    told: int = 0
    held: int = 0
    widths_s: list[float] = field(default_factory=list)
    early: int = 0
    late: int = 0

    @property
    def fairness(self) -> float:
        """Jain's index of what projects had of their due while they were backlogged, of those that
        were due an hour of a device: less is a matter of single jobs."""
        shares = [one.had_s / one.due_s for one in self.accounts.values() if one.due_s >= 3600]
        return sum(shares) ** 2 / (len(shares) * sum(one * one for one in shares)) if shares else 1

    @property
    def calibration(self) -> float:
        """The share of 80 % intervals that held the truth."""
        return self.held / self.told if self.told else math.nan

    def longest_wait_s(self, priority: Priority) -> float:
        waits = (max(found) for (_, one), found in self.waits.items() if one is priority and found)
        return max(waits, default=0.0)


class DrivenTime:
    """The database's clock."""

    def __init__(self) -> None:
        self.time = BEGIN

    async def now(self, session: object) -> datetime:
        return self.time


def sent(day: Day) -> list[Sent]:
    """A few projects send half of all; more comes in the middle of the day."""
    draw = Random(day.seed)
    projects = [f"project-{number}" for number in range(day.projects)]
    large = max(1, day.projects // 10)
    weights = [(day.projects - large) / large if i < large else 1.0 for i in range(day.projects)]
    times = sorted(_time_of_day(day, draw) for _ in range(day.jobs))
    found: list[Sent] = []
    for number, at_s in enumerate(times):
        examples = round(1_000 * math.exp(draw.gauss(0, 0.8 * day.sigma)))
        noise = math.exp(draw.gauss(0, 0.6 * day.sigma))
        job = queued_job(
            draw.choices(projects, weights)[0],
            number,
            BEGIN + timedelta(seconds=at_s),
            priority=draw.choices(list(Priority), [10, 80, 8, 2])[0],
            requirements={"node_labels": {"gpu": "h200"}} if draw.random() < 0.1 else {},
        )
        spec = replace(job.spec, sizes=Sizes(_MODEL, 0, Examples(examples, 200.0)))
        seconds = max(5.0, day.median_s * examples / 1_000 * noise)
        found.append(Sent(at_s, replace(job, spec=spec), seconds))
    return found


def _time_of_day(day: Day, draw: Random) -> float:
    """Rejected as often as the hour is quiet."""
    while True:
        share = draw.random()
        if draw.random() * (1 + day.swing) < 1 - day.swing * math.cos(2 * math.pi * share):
            return share * day.hours * 3600


@dataclass
class Asked:
    """What a job was told, and when."""

    place: QueuePlace
    at_s: float


class Simulation:
    """Plays callers and nodes against the queue."""

    def __init__(self, day: Day, store: Store[TrainerTables], clock: DrivenTime) -> None:
        self.day, self.figures = day, Figures(jobs=day.jobs)
        self._store, self._clock = store, clock
        self._leases = NodeLeases(store, Signals(), _POLICY)
        self._preemption = Preemption(store)
        self._draw = Random(day.seed + 1)
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[[], Awaitable[None]]]] = []
        self._seconds: dict[TuningJobName, float] = {}
        self._waiting: dict[TuningJobName, TuningJob] = {}
        self._trainings: dict[TuningJobName, Training] = {}
        self._done_s: dict[TuningJobName, float] = {}
        self._asked: dict[TuningJobName, list[Asked]] = defaultdict(list)
        self._idle = set(range(day.nodes))
        self._now_s = 0.0
        self._plain: dict[str, int] = defaultdict(int)
        self._devices: dict[str, int] = defaultdict(int)
        self._episodes: dict[str, Account] = defaultdict(Account)

    async def run(self) -> Figures:
        """To the end of the last job."""
        for one in sent(self.day):
            self._at(one.at_s, partial(self._send, one))
        self._at(self.day.forecast_every_s, self._forecast)
        while self._events and (self._waiting or self._trainings or self._more_is_sent()):
            time_s, _, happen = heapq.heappop(self._events)
            self._account(time_s - self._now_s)
            self._now_s = time_s
            self._clock.time = BEGIN + timedelta(seconds=time_s)
            await happen()
        for project in list(self._episodes):
            self._close(project)
        return self.figures

    def _more_is_sent(self) -> bool:
        return len(self._seconds) < self.day.jobs

    def _at(self, time_s: float, happen: Callable[[], Awaitable[None]]) -> None:
        heapq.heappush(self._events, (time_s, next(self._numbers), happen))

    def _account(self, seconds: float) -> None:
        """Among those that have work waiting which any node could do, and that is not of low
        priority. A short while of that is no contention: nobody could have had its due."""
        backlogged = {project for project, jobs in self._plain.items() if jobs}
        for project in self._episodes.keys() - backlogged:
            self._close(project)
        devices = sum(self._devices[project] for project in backlogged)
        for project in backlogged:
            episode = self._episodes[project]
            episode.seconds += seconds
            episode.had_s += self._devices[project] * seconds
            episode.due_s += devices / len(backlogged) * seconds

    def _close(self, project: str) -> None:
        episode = self._episodes.pop(project)
        if episode.seconds >= self.day.contention_s:
            account = self.figures.accounts[project]
            account.had_s += episode.had_s
            account.due_s += episode.due_s

    async def _send(self, one: Sent) -> None:
        job = one.job
        async with self._store.writing() as tables:
            await join(tables, job)
            await enter(tables, job)
        self._seconds[job.name] = one.seconds
        self._waits(job)
        for node in sorted(self._idle):
            if _labels(node).items() >= job.spec.settings.requirements.node_labels.items():
                await self._claim(node)
                break
        if job.name in self._waiting and job.spec.settings.priority is Priority.URGENT:
            self._at(self._now_s + 3.0, self._make_room)

    async def _claim(self, node: int) -> None:
        claim = Claim(f"node-{node}", labels=_labels(node))
        began = time.perf_counter()
        lease = await self._leases.claim(claim, 0)
        self.figures.deciding_s += time.perf_counter() - began
        self.figures.decisions += 1
        if lease is None:
            self._idle.add(node)
            return
        self._idle.discard(node)
        job, name = lease.job, lease.job.name
        self._waits_no_more(job)
        done_s = max((one.step for one in lease.checkpoints), default=0)
        self.figures.lost_s += self._done_s.get(name, 0.0) - done_s
        training = Training(job, node, self._now_s, done_s)
        self._trainings[name] = training
        self._at(self._end_s(training), partial(self._end, training))
        self._at(self._now_s + self.day.beat_s, partial(self._beat, training))

    def _end_s(self, training: Training) -> float:
        return training.begun_s + self._seconds[training.job.name] - training.done_s

    async def _end(self, training: Training) -> None:
        job = training.job
        if self._trainings.get(job.name) is training:
            await self._leases.end(job.name, job.attempt, _RESULT, 0)
            await self._freed(training)

    async def _beat(self, training: Training) -> None:
        if self._trainings.get(training.job.name) is training:
            await self._keep(training)
            self._at(self._now_s + self.day.beat_s, partial(self._beat, training))

    async def _keep(self, training: Training) -> Kept:
        """With a checkpoint of what is done."""
        job = training.job
        done_s = training.done_s + math.floor(self._now_s - training.begun_s)
        new = Checkpoint(job.attempt, int(done_s), "cc" * 32, 1) if done_s else None
        kept = await self._leases.heartbeat(job.name, job.attempt, Beat(int(done_s), new))
        self._done_s[job.name] = done_s
        return kept

    async def _make_room(self) -> None:
        await self._preemption.make_room()
        async with self._store.reading() as tables:
            yielding = [job.name for job in await tables.queue.running() if job.yields]
        for name in yielding:
            training = self._trainings[name]
            kept = await self._keep(training)
            if kept.directive is Directive.YIELD:
                await self._leases.end(name, training.job.attempt, Failure(Cause.PREEMPTED), 0)
                self.figures.preemptions += 1
                self._waits(training.job)
                await self._freed(training)

    async def _freed(self, training: Training) -> None:
        del self._trainings[training.job.name]
        self._devices[training.job.name.project] -= 1
        await self._claim(training.node)

    def _waits(self, job: TuningJob) -> None:
        self._waiting[job.name] = job
        self._plain[job.name.project] += _is_plain(job)

    def _waits_no_more(self, job: TuningJob) -> None:
        del self._waiting[job.name]
        project, settings = job.name.project, job.spec.settings
        self._plain[project] -= _is_plain(job)
        self._devices[project] += 1
        if job.attempt == 1:
            waited_s = (self._clock.time - job.create_time).total_seconds()
            self.figures.waits[project, settings.priority].append(waited_s)
        for asked in self._asked.pop(job.name, ()):
            self._judge(asked)

    def _judge(self, asked: Asked) -> None:
        earliest, latest, now = asked.place.earliest, asked.place.latest, self._clock.time
        if earliest is None or latest is None:
            return
        slack = timedelta(seconds=STEP_S)
        self.figures.told += 1
        self.figures.early += now < earliest - slack
        self.figures.late += now > latest + slack
        self.figures.held += earliest - slack <= now <= latest + slack
        self.figures.widths_s.append((latest - earliest).total_seconds())

    async def _forecast(self) -> None:
        self._at(self._now_s + self.day.forecast_every_s, self._forecast)
        if not self._waiting or not self._more_is_sent():
            return  # that a day ends nobody could forecast
        await self._tell_progress()
        async with self._store.reading() as tables:
            offers = await tables.nodes.there(self._clock.time - LATELY)
            outlook = await tables.queue.outlook(self._clock.time, offers)
            found = forecast(outlook)
            names = sorted(self._waiting, key=str)
            for name in self._draw.sample(names, min(len(names), self.day.forecasts_at_once)):
                job = self._waiting[name]
                line = line_of(name.project, job.spec.settings)
                place = found.place(line, await tables.queue.ahead(line, job))
                self._asked[name].append(Asked(place, self._now_s))

    async def _tell_progress(self) -> None:
        """Each engine says how long it will take: nearly right."""
        async with self._store.writing() as tables:
            for training in self._trainings.values():
                job = training.job
                left_s = (self._end_s(training) - self._now_s) * math.exp(self._draw.gauss(0, 0.1))
                step = Stepped(1, 2, 0.5, 1.0, 1.0, 50.0, 100.0, left_s)
                number = next(self._numbers) + 1
                place = Telemetry(job.name, job.attempt, number, self._clock.time, step, b"")
                await hear(tables, [place])


def _is_plain(job: TuningJob) -> bool:
    settings = job.spec.settings
    return not settings.requirements.node_labels and settings.priority is not Priority.LOW


def _labels(node: int) -> Mapping[str, str]:
    """A quarter of the nodes is of another kind."""
    return {"gpu": "h200"} if node % 4 == 0 else {"gpu": "l40s"}


async def simulated(day: Day, url: str) -> Figures:
    clock = DrivenTime()
    async with opened(url, clock.now) as store:
        return await Simulation(day, store, clock).run()


def main() -> None:
    with sqlite_file() as url:
        began = time.perf_counter()
        figures = asyncio.run(simulated(Day(), url))
        print(f"simulated in {time.perf_counter() - began:,.0f} s")
    _show(figures)


def _show(figures: Figures) -> None:
    table = Table("figure", "value")
    table.add_row("jobs", f"{figures.jobs:,}")
    table.add_row("Jain's index of device-seconds by what was due", f"{figures.fairness:.3f}")
    for priority in Priority:
        table.add_row(
            f"longest wait, {priority.lower()}", f"{figures.longest_wait_s(priority):,.0f} s"
        )
    table.add_row("decisions a second", f"{figures.decisions / figures.deciding_s:,.0f}")
    table.add_row("preemptions", f"{figures.preemptions:,}")
    table.add_row("seconds of work lost by them", f"{figures.lost_s:,.0f}")
    table.add_row("intervals told", f"{figures.told:,}")
    table.add_row("intervals that held the truth", f"{figures.calibration:.0%}")
    table.add_row("started before, behind", f"{figures.early:,}, {figures.late:,}")
    if figures.widths_s:
        table.add_row("median width", f"{percentile(figures.widths_s, 0.5):,.0f} s")
    Console(width=100).print(table)
