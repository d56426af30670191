"""The lease protocol against a model of it: the real use cases on a real database, whose clock the
test drives. Nodes die, come back late, repeat themselves, and the bus delivers when it likes."""

import asyncio
import itertools
import json
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlmodel import col, delete, select

from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from services.common.faults import Aborted
from services.common.paging import PageTokens
from services.common.store import Store, open_engine
from services.common.tables import OutboxRow
from services.trainer.checkpoint_owners import owner_of_all, owner_of_one
from services.trainer.control.__main__ import MIGRATIONS
from services.trainer.control.adapters.jobs import SqlJobs
from services.trainer.control.adapters.queue import SqlQueue
from services.trainer.control.adapters.sql import TrainerTables, trainer_tables
from services.trainer.control.adapters.tables import (
    AttemptRow,
    CheckpointRow,
    EventRow,
    JobRow,
    ReleaseRow,
)
from services.trainer.control.domain.checkpoints import Checkpoint
from services.trainer.control.domain.drafts import Draft, Specification
from services.trainer.control.domain.endings import Cause, Ending, Failure, Result
from services.trainer.control.domain.errors import StaleAttempt, WrongState
from services.trainer.control.domain.fleet import Fleet
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.node_leases import (
    Beat,
    Claim,
    Lease,
    LeasePolicy,
    NodeLeases,
)
from services.trainer.control.domain.progress import Remark, Telemetry
from services.trainer.control.domain.signals import Signals
from services.trainer.control.domain.states import FINAL, HELD, State
from services.trainer.control.domain.telemetry import hear
from services.trainer.control.domain.tuning_jobs import Ids, NewJob, TuningJobs
from tests.contract.trainer_control.world import (
    known_base_models,
    known_datasets,
    known_model_versions,
)
from tests.schemas import bring_up

LEASE_S = 10
POLICY = LeasePolicy(lease_s=LEASE_S, events_grace_s=0, retry_delay_s=0)
NODES = st.sampled_from(["node-a", "node-b"])
CLAIM_IDS = st.sampled_from(["", "claim-1", "claim-2"])
ENDINGS = st.sampled_from(
    [
        Result("aa" * 32),
        Result("bb" * 32),
        Failure(Cause.ENGINE_ERROR, "boom"),
        Failure(Cause.NODE_STOPPING),
        Failure(Cause.INVALID_JOB),
    ]
)


class DrivenTime:
    """The database's clock, in the hands of the test."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    async def now(self, session: object) -> datetime:
        return self.time


@dataclass
class System:
    """The use cases over one database, called from a synchronous test."""

    runner: asyncio.Runner
    clock: DrivenTime
    store: Store[TrainerTables]
    jobs: TuningJobs
    leases: NodeLeases

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    async def clear(self) -> None:
        async with self.store.writing() as tables:
            for table in (EventRow, AttemptRow, CheckpointRow, JobRow, OutboxRow, ReleaseRow):
                await tables.session.exec(delete(table))

    async def rows(self) -> "Rows":
        async with self.store.reading() as tables:

            async def all_of(table: Any, *order: Any) -> list[Any]:
                return list(await tables.session.exec(select(table).order_by(*order)))

            return Rows(
                jobs=await all_of(JobRow),
                attempts=await all_of(AttemptRow),
                events=await all_of(EventRow, col(EventRow.job), col(EventRow.sequence)),
                outbox=await all_of(OutboxRow),
                checkpoints=await all_of(CheckpointRow, col(CheckpointRow.attempt)),
                releases=await all_of(ReleaseRow),
            )

    async def hear(self, told: Telemetry) -> None:
        async with self.store.writing() as tables:
            await hear(tables, [told])


@dataclass(frozen=True)
class Rows:
    """All that is stored; events in the order of their sequences."""

    jobs: list[JobRow]
    attempts: list[AttemptRow]
    events: list[EventRow]
    outbox: list[OutboxRow]
    checkpoints: list[CheckpointRow]
    releases: list[ReleaseRow]


@dataclass
class Expected:
    """What the model knows of a job. `endings` holds what each attempt that ended had said."""

    state: State = State.QUEUED
    attempt: int = 0
    failures: int = 0
    node: str = ""
    lease_until: datetime | None = None
    endings: dict[int, Ending] = field(default_factory=dict)
    heard: set[tuple[int, int]] = field(default_factory=set)
    checkpoints: list[tuple[int, int]] = field(default_factory=list)

    def keep(self, attempt: int, step: int) -> None:
        """By the default policy: the last two."""
        if all(other < step for of, other in self.checkpoints if of == attempt):
            self.checkpoints = [*self.checkpoints, (attempt, step)][-2:]

    def end(self, ending: Ending, max_attempts: int) -> None:
        self.endings[self.attempt] = ending
        self.lease_until = None
        if self.state is State.CANCELLING:
            self.state = State.CANCELLED
        elif isinstance(ending, Result):
            self.state = State.SUCCEEDED
        else:
            self.failures += ending.cause is not Cause.NODE_STOPPING
            lost = ending.cause is Cause.INVALID_JOB or self.failures >= max_attempts
            self.state = State.FAILED if lost else State.QUEUED


MAX_ATTEMPTS = 3


class Leases(RuleBasedStateMachine):
    """Every answer is compared with the model's, and the rows with what must always hold."""

    system: System

    def __init__(self) -> None:
        super().__init__()
        self.system.run(self.system.clear())
        self.expected: dict[TuningJobName, Expected] = {}
        self.claims: dict[str, tuple[str, TuningJobName, int]] = {}
        self.given: list[tuple[TuningJobName, int]] = []

    def call(self, work: Any) -> Any:
        return self.system.run(work)

    @initialize(jobs=st.integers(1, 2))
    def create(self, jobs: int) -> None:
        for _ in range(jobs):
            draft = Draft(
                "baseModels/tiny-base",
                "projects/default/datasets/support/versions/latest",
                "",
                {"method": {"kind": "lora"}, "max_attempts": MAX_ATTEMPTS},
            )
            job = self.call(
                self.system.jobs.create(NewJob("projects/default", "", draft, "", "", False))
            )
            self.expected[job.name] = Expected()
            self.system.clock.time += timedelta(milliseconds=1)

    @rule(node=NODES, request_id=CLAIM_IDS)
    def claim(self, node: str, request_id: str) -> None:
        request_id = f"{node}-{request_id}" if request_id else ""
        repeated = self.claims.get(request_id)
        lease: Lease | None = self.call(self.system.leases.claim(Claim(node, request_id), 0))
        job = lease.job if lease else None
        if repeated and self._current(repeated[1], repeated[2]):
            assert lease is not None
            assert job is not None
            assert (job.name, job.attempt) == repeated[1:], "a repeated claim has another lease"
        elif lease is None or job is None:
            waiting = [one for one in self.expected.values() if one.state is State.QUEUED]
            assert not waiting, "a job waits and the claim got none"
            return
        else:
            self._granted(job, node)
            if request_id:
                self.claims[request_id] = (node, job.name, job.attempt)
        assert [one.place for one in lease.checkpoints] == self.expected[job.name].checkpoints
        self.expected[job.name].lease_until = self._lease_end()

    def _granted(self, job: TuningJob, node: str) -> None:
        expected = self.expected[job.name]
        oldest = next(n for n, one in self.expected.items() if one.state is State.QUEUED)
        assert job.name == oldest, "not the oldest job"
        assert job.attempt == expected.attempt + 1, "the attempt did not grow by one"
        expected.state, expected.attempt, expected.node = State.RUNNING, job.attempt, node
        self.given.append((job.name, job.attempt))

    @rule(seconds=st.integers(1, LEASE_S + 5))
    def time_passes(self, seconds: int) -> None:
        self.system.clock.time += timedelta(seconds=seconds)

    @rule()
    def reap(self) -> None:
        self.call(self.system.leases.reap())
        for expected in self.expected.values():
            if expected.lease_until and expected.lease_until <= self.system.clock.time:
                expected.end(Failure(Cause.LEASE_EXPIRED), MAX_ATTEMPTS)

    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        if not self.given:
            return
        name, attempt = data.draw(st.sampled_from(self.given))
        try:
            self.call(self.system.leases.heartbeat(name, attempt, Beat(1)))
        except Aborted:
            assert not self._current(name, attempt), "the current attempt was refused"
        else:
            assert self._current(name, attempt), "a stale heartbeat was accepted"
            self.expected[name].lease_until = self._lease_end()

    @rule(data=st.data(), step=st.integers(0, 5), refuses=st.booleans())
    def keep_checkpoint(self, data: st.DataObject, step: int, refuses: bool) -> None:
        """Some are told again, or late; some nodes refuse all that they were told of."""
        if not self.given:
            return
        name, attempt = data.draw(st.sampled_from(self.given))
        expected = self.expected[name]
        earlier = [one for one in expected.checkpoints if one[0] < attempt and refuses]
        new = Checkpoint(attempt, step, "aa" * 32)
        beat = Beat(step, new, tuple(Checkpoint(*one, "aa" * 32) for one in earlier))
        try:
            self.call(self.system.leases.heartbeat(name, attempt, beat))
        except Aborted:
            assert not self._current(name, attempt), "the current attempt was refused"
            return
        assert self._current(name, attempt), "a stale checkpoint was accepted"
        expected.checkpoints = [one for one in expected.checkpoints if one not in earlier]
        expected.keep(attempt, step)
        expected.lease_until = self._lease_end()

    @rule(data=st.data(), ending=ENDINGS)
    def end(self, data: st.DataObject, ending: Ending) -> None:
        if not self.given:
            return
        name, attempt = data.draw(st.sampled_from(self.given))
        expected = self.expected[name]
        repeated = expected.endings.get(attempt) == ending
        try:
            job: TuningJob = self.call(self.system.leases.end(name, attempt, ending, 0))
        except Aborted:
            assert not self._current(name, attempt), "the current attempt was refused"
            assert not repeated, "a repeated ending was refused"
            return
        assert repeated or self._current(name, attempt), "a stale ending was accepted"
        if not repeated:
            expected.end(ending, MAX_ATTEMPTS)
        assert job.state is expected.state

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(self.expected)))
        expected = self.expected[name]
        try:
            self.call(self.system.jobs.cancel(name, ""))
        except WrongState:
            assert expected.state in (State.SUCCEEDED, State.FAILED)
            return
        if expected.state is State.QUEUED:
            expected.state = State.CANCELLED
        elif expected.state is State.RUNNING:
            expected.state = State.CANCELLING

    @rule(data=st.data(), number=st.integers(1, 4))
    def deliver(self, data: st.DataObject, number: int) -> None:
        """An event of any attempt that ever was: early, late, or once more."""
        if not self.given:
            return
        name, attempt = data.draw(st.sampled_from(self.given))
        event = job_pb.TuningJobEvent(attempt=attempt, attempt_sequence=number)
        told = Telemetry(
            name, attempt, number, self.system.clock.time, Remark(), event.SerializeToString()
        )
        self.call(self.system.hear(told))
        if self.expected[name].state not in FINAL:
            self.expected[name].heard.add((attempt, number))

    @invariant()
    def what_is_stored_is_what_is_expected(self) -> None:
        rows: Rows = self.call(self.system.rows())
        self._jobs_stand_as_expected(rows)
        self._one_attempt_lives(rows)
        self._histories_have_no_gap_and_nothing_after_the_end(rows)
        self._a_job_succeeds_once(rows)
        self._what_is_kept_is_never_released(rows)

    def _jobs_stand_as_expected(self, rows: Rows) -> None:
        for row in rows.jobs:
            expected = self.expected[TuningJobName.parse(row.name)]
            assert (row.state, row.attempt) == (expected.state, expected.attempt)
            assert (row.lease_expire_time is not None) == (expected.state in HELD)
            assert row.lease_expire_time == expected.lease_until

    def _one_attempt_lives(self, rows: Rows) -> None:
        living = Counter(row.job for row in rows.attempts if row.end_time is None)
        for name, expected in self.expected.items():
            assert living[str(name)] == (expected.state in HELD)

    def _histories_have_no_gap_and_nothing_after_the_end(self, rows: Rows) -> None:
        for name, group in itertools.groupby(rows.events, key=lambda row: row.job):
            events = list(group)
            assert [row.sequence for row in events] == list(range(1, len(events) + 1))
            expected = self.expected[TuningJobName.parse(name)]
            told = [(row.attempt, row.number) for row in events if row.number is not None]
            assert len(told) == len(set(told))
            assert set(told) == expected.heard
            self._check_moves([row.payload for row in events if row.number is None], expected)
            if expected.state in FINAL:
                assert events[-1].number is None, "something came after the end"

    def _a_job_succeeds_once(self, rows: Rows) -> None:
        news = (row for row in rows.outbox if row.subject == "anneal.jobs.succeeded")
        done = {name for name, one in self.expected.items() if one.state is State.SUCCEEDED}
        assert Counter(row.message_id for row in news) == Counter(
            f"{name}:succeeded" for name in done
        )

    def _what_is_kept_is_never_released(self, rows: Rows) -> None:
        released = {row.owner for row in rows.releases}
        for job in rows.jobs:
            expected = self.expected[TuningJobName.parse(job.name)]
            kept = [(row.attempt, row.step) for row in rows.checkpoints if row.job == job.name]
            ended = expected.state in FINAL
            is_kept = not ended or expected.state is State.FAILED  # for a retry, for a while
            assert sorted(kept) == (sorted(expected.checkpoints) if is_kept else [])
            assert released.isdisjoint(owner_of_one(job.uid, *one) for one in kept)
            assert (owner_of_all(job.uid) in released) == ended

    def _check_moves(self, payloads: list[bytes], expected: Expected) -> None:
        moves = [job_pb.TuningJobEvent.FromString(one).state_change for one in payloads]
        assert [getattr(move, "from") for move in moves] == [0, *(move.to for move in moves[:-1])]
        assert job_pb.TuningJob.State.Name(moves[-1].to) == f"STATE_{expected.state}"

    def _current(self, name: TuningJobName, attempt: int) -> bool:
        expected = self.expected[name]
        return expected.state in HELD and expected.attempt == attempt

    def _lease_end(self) -> datetime:
        return self.system.clock.time + timedelta(seconds=LEASE_S)


@pytest.fixture
def system(database_url: str) -> Any:
    clock, signals = DrivenTime(), Signals()
    numbers = itertools.count(1)
    ids = Ids(job_id=lambda: f"job-{next(numbers)}", uid=lambda: f"uid-{next(numbers)}")
    with asyncio.Runner() as runner:
        runner.run(bring_up(database_url, MIGRATIONS))
        store = Store(open_engine(database_url), trainer_tables(signals, clock.now))
        specification = Specification(
            known_datasets(), known_base_models(), known_model_versions(), Fleet(store)
        )
        jobs = TuningJobs(store, specification, PageTokens(b"s" * 16), ids)
        yield System(runner, clock, store, jobs, NodeLeases(store, signals, POLICY))
        runner.run(store.close())


SETTINGS = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
LONG_SETTINGS = settings(SETTINGS, max_examples=2000, stateful_step_count=30)
MUTANT_SETTINGS = settings(SETTINGS, max_examples=1000, phases=[Phase.generate])


class OneNode(Leases):
    """With little else to happen than that its lease is over, and that it comes back."""

    cancel = deliver = None

    @rule()
    def claim(self) -> None:
        Leases.claim(self, node="node-a", request_id="")

    @rule()
    def time_passes(self) -> None:
        Leases.time_passes(self, seconds=LEASE_S)


def machine_of(machine: type[Leases], system: System) -> type[Leases]:
    return type("LeasesHere", (machine,), {"system": system})


@pytest.mark.fault("R5")
@pytest.mark.timeout(3600)
def test_no_history_breaks_the_lease(system: System, request: pytest.FixtureRequest) -> None:
    long = request.config.getoption("--faults", default="short") == "long"
    chosen = LONG_SETTINGS if long else SETTINGS
    began_s = time.monotonic()

    run_state_machine_as_test(machine_of(Leases, system), settings=chosen)

    figures = {
        "database": system.store.engine.dialect.name,
        "histories": chosen.max_examples,
        "steps": chosen.stateful_step_count,
        "seconds": round(time.monotonic() - began_s, 1),
        "violations": 0,
    }
    request.node.user_properties.append(("figures", json.dumps({"fault": "R5", **figures})))


def any_attempt_writes(patch: pytest.MonkeyPatch) -> None:
    def unfenced(job: TuningJob, attempt: int) -> None: ...

    patch.setattr(TuningJob, "require_attempt", unfenced)


def any_attempt_writes_while_one_holds_the_lease(patch: pytest.MonkeyPatch) -> None:
    def fenced_by_state(job: TuningJob, attempt: int) -> None:
        if job.state not in HELD:
            raise StaleAttempt(job.name, attempt, job.attempt, job.state)

    patch.setattr(TuningJob, "require_attempt", fenced_by_state)


def a_node_writes_what_it_likes_to_its_job(patch: pytest.MonkeyPatch) -> None:
    """The classic mistake: a node's earlier attempt passes for its present one."""
    take, nodes = SqlQueue.take, {}

    async def taken(queue: SqlQueue, *arguments: Any, **named: Any) -> Any:
        job = await take(queue, *arguments, **named)
        if job is not None:
            nodes[job.name, job.attempt] = job.node
        return job

    def fenced_by_node(job: TuningJob, attempt: int) -> None:
        if job.state not in HELD or nodes[job.name, attempt] != job.node:
            raise StaleAttempt(job.name, attempt, job.attempt, job.state)

    patch.setattr(SqlQueue, "take", taken)
    patch.setattr(TuningJob, "require_attempt", fenced_by_node)


def a_claim_does_not_raise_the_attempt(patch: pytest.MonkeyPatch) -> None:
    take = SqlQueue.take

    async def taken(queue: SqlQueue, *arguments: Any, **named: Any) -> Any:
        job = await take(queue, *arguments, **named)
        if job is None or job.attempt == 1:
            return job
        before = replace(job, attempt=job.attempt - 1)
        await SqlJobs(queue._session).replace(job, before)
        return before

    patch.setattr(SqlQueue, "take", taken)


MUTANTS = [
    any_attempt_writes,
    any_attempt_writes_while_one_holds_the_lease,
    a_node_writes_what_it_likes_to_its_job,
    a_claim_does_not_raise_the_attempt,
]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_catches_mutants_lets_the_code_itself_pass(system: System) -> None:
    run_state_machine_as_test(machine_of(OneNode, system), settings=SETTINGS)


@pytest.mark.fault("R5")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_model_catches_a_mutant(
    system: System, mutant: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    mutant(monkeypatch)
    began_s = time.monotonic()

    with pytest.raises((AssertionError, WrongState)) as caught:
        run_state_machine_as_test(machine_of(OneNode, system), settings=MUTANT_SETTINGS)

    seconds = round(time.monotonic() - began_s, 2)
    figures = {"mutant": mutant.__name__, "caught_after_s": seconds, "by": str(caught.value)[:60]}
    request.node.user_properties.append(("figures", json.dumps({"fault": "R5", **figures})))
