"""Leases: nodes claim jobs, keep them, and end them; each write is fenced by its attempt."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog
from structlog.typing import FilteringBoundLogger

from services.common.faults import Aborted, Unavailable
from services.trainer.control.domain.attempts import Attempt
from services.trainer.control.domain.changes import change, record
from services.trainer.control.domain.checkpoints import Checkpoint, Checkpoints, is_news, staying
from services.trainer.control.domain.endings import Cause, Ending, Failure, Result
from services.trainer.control.domain.errors import ClaimIdReused, existing
from services.trainer.control.domain.estimation.calibrating import learn
from services.trainer.control.domain.estimation.devices import Device
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.nodes import Capabilities, Offer, Schedule
from services.trainer.control.domain.ports import StateChange, Store, Unit
from services.trainer.control.domain.queue.claims import charge, demand, settle, take, turns_of
from services.trainer.control.domain.settings import Backend
from services.trainer.control.domain.signals import Signals, wait
from services.trainer.control.domain.states import HELD, Directive, State
from services.trainer.control.domain.sweeps.trials import hold_to_end, tell_sweep

_MOST_TOLD = 100

log: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class LeasePolicy:
    """Times in seconds.

    `events_grace_s` is how long the end of an attempt waits for its events to arrive over the
    bus; `retry_delay_s` is the pause after a first failure, doubled by each one that follows.
    """

    lease_s: float = 30.0
    claim_poll_s: float = 2.0
    events_grace_s: float = 10.0
    reap_every_s: float = 1.0
    retry_delay_s: float = 1.0

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_s)

    @property
    def retry_delay(self) -> timedelta:
        return timedelta(seconds=self.retry_delay_s)


@dataclass(frozen=True)
class Claim:
    """Who asks for work, and what it has to do it on and with. With a `request_id`, asking again
    gives the same lease; a node that is `stopping` gets no other."""

    node: str
    request_id: str = ""
    device: Device | None = None
    backends: frozenset[Backend] = frozenset({Backend.BUILTIN})
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    free_devices: int = 1
    capabilities: Capabilities | None = None
    stopping: bool = False

    def offer(self, now: datetime) -> Offer:
        return Offer(
            node=self.node,
            device=self.device,
            backends=self.backends,
            time=now,
            labels=self.labels,
            free_devices=self.free_devices,
            capabilities=self.capabilities,
        )


@dataclass(frozen=True)
class Lease:
    """A job that was just claimed, what a training of it can go on from, and what is wanted. In the
    `out_of_memory` attempts memory ran out."""

    job: TuningJob
    checkpoints: Checkpoints
    directive: Directive
    out_of_memory: tuple[int, ...] = ()


@dataclass(frozen=True)
class Kept:
    """A job whose lease goes on, and what its node is to do."""

    job: TuningJob
    directive: Directive


@dataclass(frozen=True)
class Beat:
    """A sign of life: the last step done, a checkpoint stored since the last sign, and checkpoints
    of the lease that turned out to be of no use."""

    step: int = 0
    checkpoint: Checkpoint | None = None
    refused: Checkpoints = ()


class _Twin(Aborted):
    """The same claim is being carried out at this moment."""

    def __init__(self) -> None:
        super().__init__("CLAIM_IN_PROGRESS", "the same claim is being answered; ask again")


class NodeLeases:
    """What nodes may do."""

    def __init__(self, store: Store, signals: Signals, policy: LeasePolicy) -> None:
        self._store = store
        self._signals = signals
        self.policy = policy

    async def claim(self, claim: Claim, wait_s: float) -> Lease | None:
        """The job whose turn it is, of those that the node can train, RUNNING under a new attempt;
        None if none came within `wait_s`."""
        if claim.stopping:
            return await self._granted(claim)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        work_waits = self._signals.work_waits.listen()
        lease = await self._claimed(claim)
        while lease is None and (left := deadline - loop.time()) > 0:
            await wait(work_waits, min(left, self.policy.claim_poll_s))
            work_waits = self._signals.work_waits.listen()
            if await self._has_work(claim):
                lease = await self._claimed(claim)
        return lease

    async def heartbeat(self, name: TuningJobName, attempt: int, beat: Beat) -> Kept:
        """Keeps the lease for its full length from now. Raises StaleAttempt."""
        async with self._store.writing() as unit:
            job, now = existing(name, await unit.jobs.hold(name)), await unit.now()
            job.require_attempt(attempt)
            after = await charge(unit, job.kept(now + self.policy.lease), now)
            await change(unit, job, after)
            await unit.attempts.tell_step(name, attempt, beat.step)
            await _keep(unit, job, beat)
        return Kept(after, after.directive(now))

    async def end(
        self, name: TuningJobName, attempt: int, ending: Ending, event_count: int
    ) -> TuningJob:
        """Ends the attempt, after the `event_count` events that its node published if these
        arrive in time. The same ending told again changes nothing. Raises StaleAttempt."""
        await self._all_heard(name, attempt, event_count)
        async with self._store.writing() as unit:
            job = await hold_to_end(unit, name)
            told = await unit.attempts.find(name, attempt)
            if told is not None and told.ended_with(ending):
                return job
            job.require_attempt(attempt)
            return await self._end(unit, job, ending)

    async def reap(self) -> None:
        """Takes back the jobs of nodes that stopped responding; one that can not be is left for the
        next time. Raises Unavailable and Aborted."""
        async with self._store.reading() as unit:
            names = await unit.jobs.expired(await unit.now())
        for name in names:
            try:
                async with self._store.writing() as unit:
                    await self._take_back(unit, name)
            except (Unavailable, Aborted):
                raise
            except Exception as error:  # whatever it is: the other jobs' nodes are gone too
                log.error("lease.not_taken_back", job=str(name), exc_info=error)

    async def run_reaper(self) -> None:
        """Reaps until it is cancelled, and goes on after outages of the database.

        It begins a whole lease after the start and after each outage: meanwhile no node could keep
        its lease, and those that live shall come first.
        """
        while True:
            await self._outage_over()
            await asyncio.sleep(self.policy.lease_s)
            await self._reap_until_outage()

    async def _reap_until_outage(self) -> None:
        while True:
            try:
                await self.reap()
            except Aborted as fault:
                log.warning("reaper.overtaken", reason=fault.reason)
            except Unavailable as fault:
                log.warning("reaper.paused", reason=fault.reason)
                return
            await asyncio.sleep(self.policy.reap_every_s)

    async def _outage_over(self) -> None:
        """Returns when the database lets a transaction begin that writes."""
        while True:
            with suppress(Unavailable):
                async with self._store.writing():
                    return
            await asyncio.sleep(self.policy.reap_every_s)

    async def _has_work(self, claim: Claim) -> bool:
        """Whether it is worth to ask again in a transaction that keeps others waiting."""
        async with self._store.reading() as unit:
            if claim.request_id and await unit.attempts.claimed_under(claim.request_id):
                return True
            if await unit.nodes.schedule(claim.node) is not Schedule.OPEN:
                return False
            now = await unit.now()
            return bool(turns_of(await demand(unit, now), claim.offer(now), now))

    async def _granted(self, claim: Claim) -> Lease | None:
        """What the claim got before, also at this very moment: see `_heard`."""
        async with self._store.writing() as unit:
            await unit.nodes.hold(claim.node)
            now = await unit.now()
            job = await self._again(unit, claim, now)
            return None if job is None else await _lease(unit, job, now)

    async def _claimed(self, claim: Claim) -> Lease | None:
        try:
            async with self._store.writing() as unit:
                now = await unit.now()
                schedule = await _heard(unit, claim.offer(now))
                job = await self._again(unit, claim, now)
                if job is None and schedule is Schedule.OPEN:
                    job = await self._anew(unit, claim, now)
                if job is None:
                    return None
                return await _lease(unit, job, now)
        except _Twin:
            return None

    async def _again(self, unit: Unit, claim: Claim, now: datetime) -> TuningJob | None:
        """The lease that this claim got before, if it still holds."""
        if not claim.request_id:
            return None
        attempt = await unit.attempts.claimed_under(claim.request_id)
        if attempt is None:
            return None
        if attempt.node != claim.node:
            raise ClaimIdReused
        job = existing(attempt.job, await unit.jobs.hold(attempt.job))
        if job.state not in HELD or job.attempt != attempt.number:
            await unit.attempts.release(claim.request_id)
            return None
        after = job.kept(now + self.policy.lease)
        await change(unit, job, after)
        return after

    async def _anew(self, unit: Unit, claim: Claim, now: datetime) -> TuningJob | None:
        job = await take(unit, claim.offer(now), now, self.policy.lease)
        if job is None:
            return None
        attempt = Attempt(job.name, job.attempt, claim.node, claim.request_id, now)
        if not await unit.attempts.add(attempt):
            raise _Twin
        await record(unit, StateChange(State.QUEUED, job, f"{claim.node} took it"))
        return job

    async def _all_heard(self, name: TuningJobName, attempt: int, event_count: int) -> None:
        """Returns once the history holds the events, or the grace is over, or the attempt is."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.policy.events_grace_s
        with self._signals.following(name) as bell:
            while True:
                grown = bell.listen()
                async with self._store.reading() as unit:
                    job = existing(name, await unit.jobs.find(name))
                if not job.awaits_events(attempt, event_count):
                    return
                left = deadline - loop.time()
                if left <= 0:
                    log.warning(
                        "attempt.events_missing",
                        job=str(name),
                        attempt=attempt,
                        heard=job.attempt_event_count,
                        published=event_count,
                    )
                    return
                await wait(grown, left)

    async def _end(self, unit: Unit, job: TuningJob, ending: Ending) -> TuningJob:
        attempt, now = await unit.attempts.of(job), await unit.now()
        lasted_until = min(now, job.lease_expire_time or now)
        after = job.ended(ending, now, self.policy.retry_delay)
        after = await settle(unit, after, lasted_until, now)
        await unit.attempts.end(attempt.ended(ending, now))
        await change(unit, job, after, _why(after, ending))
        if isinstance(ending, Result) and after.state is State.SUCCEEDED:
            await learn(unit, after, ending)
        if isinstance(ending, Result) and after.model_version:
            await unit.news.job_succeeded(after, ending)
        return await tell_sweep(unit, after, ending)

    async def _take_back(self, unit: Unit, name: TuningJobName) -> None:
        """Unless its node came back, or somebody else was faster, since it was looked up."""
        job = await hold_to_end(unit, name)
        if job.lease_expire_time is not None and job.lease_expire_time <= await unit.now():
            await self._end(unit, job, Failure(Cause.LEASE_EXPIRED))
            log.warning("lease.expired", job=str(name), attempt=job.attempt, node=job.node)


async def _lease(unit: Unit, job: TuningJob, now: datetime) -> Lease:
    checkpoints = await unit.checkpoints.of(job.name)
    return Lease(job, checkpoints, job.directive(now), await _out_of_memory(unit, job))


async def _out_of_memory(unit: Unit, job: TuningJob) -> tuple[int, ...]:
    """The last attempts that ended so, those of the jobs that this one retries among them."""
    found: list[int] = []
    one: TuningJob | None = job
    while one is not None and len(found) < _MOST_TOLD:
        attempts = await unit.attempts.all_of(one.name) if one.failures else ()
        found += [told.number for told in attempts if told.outcome == Cause.OUT_OF_MEMORY]
        one = await unit.jobs.find(one.retry_of) if one.retry_of else None
    return tuple(sorted(found)[-_MOST_TOLD:])


async def _heard(unit: Unit, offer: Offer) -> Schedule:
    """Keeps what the node says of itself, if that is news. Its schedule stays as it is until this
    transaction has ended."""
    known, schedule = await unit.nodes.hold(offer.node)
    if offer.says_more_than(known):
        await unit.nodes.put(offer)
    return schedule


async def _keep(unit: Unit, job: TuningJob, beat: Beat) -> None:
    """Of the checkpoints of a job that this transaction holds, what is of use and its policy asks
    for."""
    new, refused = beat.checkpoint, {one.place for one in beat.refused}
    if new is None and not refused:
        return
    known = await unit.checkpoints.of(job.name)
    after = tuple(one for one in known if one.place not in refused)
    if new is not None and is_news(known, new):
        new = replace(new, job_uid=job.uid)
        await unit.checkpoints.add(job.name, new)
        after = staying((*after, new), job.spec.settings.training)
    await unit.checkpoints.release(job, [one for one in known if one not in after])


def _why(after: TuningJob, ending: Ending) -> str:
    """A cancelled job needs no words: somebody asked for it."""
    if isinstance(ending, Result) or after.state is State.CANCELLED:
        return ""
    return ending.words
