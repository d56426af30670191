"""Who gets which job: the queue's rules, carried out in one transaction."""

from dataclasses import replace
from datetime import datetime, timedelta

from services.trainer.control.domain.errors import QueueLinesReached, QueueQuotaReached
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.ports import Unit
from services.trainer.control.domain.queue.lines import MAX_LINES, Line, line_of
from services.trainer.control.domain.queue.shares import (
    QUANTUM_S,
    Demand,
    Waiting,
    due_charge_s,
    settlement_s,
)


async def demand(unit: Unit, now: datetime) -> Demand:
    """All that waits."""
    waiting = tuple(await unit.queue.waiting(now))
    if not waiting:
        return Demand((), {}, {})
    return Demand(waiting, *await unit.queue.standings())


def turns_of(demand: Demand, offer: Offer, now: datetime) -> list[Waiting]:
    """The lines whose jobs the node can train, whose turn it is first."""
    able = tuple(one for one in demand.waiting if offer.can_train(one.line))
    return replace(demand, waiting=able).turns(now)


async def take(unit: Unit, offer: Offer, now: datetime, lease: timedelta) -> TuningJob | None:
    """The job whose turn it is, RUNNING under its next attempt, and charged for; None if none is to
    be had. Claims are carried out one after the other, so that each sees what the last one took."""
    await unit.queue.claim_alone()
    waiting = await demand(unit, now)
    for one in turns_of(waiting, offer, now):
        due_s = QUANTUM_S * one.line.requirements.device_count
        job = await unit.queue.take(one.line, offer.node, now, lease, due_s)
        if job is not None:
            await unit.queue.serve(waiting.virtual_time_s(one.line))
            await _charge(unit, job, due_s, now)
            return job
    return None


async def charge(unit: Unit, job: TuningJob, now: datetime) -> TuningJob:
    """The job whose attempt goes on, with what its project is charged for it by now."""
    if job.claim_time is None:
        return job
    due_s = due_charge_s(job.charged_s, now - job.claim_time, job.device_count)
    await _charge(unit, job, due_s, now)
    return job.charged(due_s)


async def settle(unit: Unit, job: TuningJob, end: datetime, now: datetime) -> TuningJob:
    """The job whose attempt has ended, charged for the time that it took and no more."""
    if job.claim_time is None:
        return job
    rest_s = settlement_s(job.charged_s, end - job.claim_time, job.device_count)
    await _charge(unit, job, rest_s, now)
    return job.charged(rest_s)


async def join(unit: Unit, job: TuningJob) -> None:
    """Before the job enters the queue. Trials of sweeps enter as they come; for others this raises
    QueueQuotaReached where the project has as many jobs waiting as its quota lets it have, and
    QueueLinesReached where they would stand in too many lines."""
    project = job.name.project
    share = await unit.queue.hold(project)
    limit = share.quota.max_queued_jobs if job.sweep is None else 0
    if limit and await unit.queue.queued_jobs(project, limit) >= limit:
        raise QueueQuotaReached(project, limit)
    if job.sweep is None:
        await require_line(unit, line_of(project, job.spec.settings))
    if not await unit.queue.is_active(project):
        await unit.queue.put(share.after_joining(await unit.queue.served_s()))


async def require_line(unit: Unit, line: Line) -> None:
    """Raises QueueLinesReached unless a job waits in the line, or there may be another. The share
    of its project is held by this transaction."""
    if await unit.queue.has_line(line):
        return
    if await unit.queue.line_count(line.project) >= MAX_LINES:
        raise QueueLinesReached(line.project, MAX_LINES)


async def _charge(unit: Unit, job: TuningJob, device_s: float, now: datetime) -> None:
    if device_s:
        share = await unit.queue.hold(job.name.project)
        await unit.queue.put(share.charged(device_s, now))
