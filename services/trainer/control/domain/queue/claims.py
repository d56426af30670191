"""Who gets which job: the queue's rules, carried out in one transaction."""

from datetime import datetime, timedelta

from services.trainer.control.domain.errors import QueueQuotaReached
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.ports import Unit
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
    running_jobs = await unit.queue.running_jobs()
    projects = {one.line.project for one in waiting} | running_jobs.keys()
    return Demand(waiting, await unit.queue.shares(projects), running_jobs)


def turns_of(demand: Demand, offer: Offer, now: datetime) -> list[Waiting]:
    """The lines whose jobs the node can train, whose turn it is first."""
    return [one for one in demand.turns(now) if offer.can_train(one.line)]


async def take(unit: Unit, offer: Offer, now: datetime, lease: timedelta) -> TuningJob | None:
    """The job whose turn it is, RUNNING under its next attempt, and charged for; None if none is to
    be had. Claims are carried out one after the other, so that each sees what the last one took."""
    await unit.queue.claim_alone()
    waiting = await demand(unit, now)
    for one in turns_of(waiting, offer, now):
        job = await unit.queue.take(one.line, offer.node, now, lease)
        if job is not None:
            await unit.queue.serve(waiting.virtual_time_s(one.line))
            charged = await _charged(unit, job, QUANTUM_S * job.device_count, now)
            await unit.jobs.replace(job, charged)
            return charged
    return None


async def charge(unit: Unit, job: TuningJob, now: datetime) -> TuningJob:
    """The job whose attempt goes on, with what its project is charged for it by now."""
    if job.claim_time is None:
        return job
    due_s = due_charge_s(job.charged_s, now - job.claim_time, job.device_count)
    return await _charged(unit, job, due_s, now)


async def settle(unit: Unit, job: TuningJob, end: datetime, now: datetime) -> TuningJob:
    """The job whose attempt has ended, charged for the time that it took and no more."""
    if job.claim_time is None:
        return job
    rest_s = settlement_s(job.charged_s, end - job.claim_time, job.device_count)
    return await _charged(unit, job, rest_s, now)


async def join(unit: Unit, project: str, *, limited: bool = True) -> None:
    """Before a job of the project enters the queue. Raises QueueQuotaReached if it is `limited` and
    the project has as many jobs waiting as its quota lets it have."""
    share = await unit.queue.hold(project)
    limit = share.quota.max_queued_jobs
    if limited and limit and await unit.queue.queued_jobs(project, limit) >= limit:
        raise QueueQuotaReached(project, limit)
    if not await unit.queue.is_active(project):
        await unit.queue.put(share.after_joining(await unit.queue.served_s()))


async def _charged(unit: Unit, job: TuningJob, device_s: float, now: datetime) -> TuningJob:
    if device_s:
        share = await unit.queue.hold(job.name.project)
        await unit.queue.put(share.charged(device_s, now))
    return job.charged(device_s)
