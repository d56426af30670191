"""What nodes tell, written into the histories of their jobs."""

from collections.abc import Collection, Sequence, Set
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

import structlog
from structlog.typing import FilteringBoundLogger

from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.ports import Unit
from services.trainer.control.domain.progress import Started, Stepped, Telemetry
from services.trainer.control.domain.resumes import Resumes, certified, steps_to_compare
from services.trainer.control.domain.states import FINAL

log: FilteringBoundLogger = structlog.get_logger(__name__)


async def hear(unit: Unit, told: Sequence[Telemetry]) -> None:
    """Adds events to the histories of their jobs, each once, in their order.

    Nothing comes after a job's final event, and what an earlier attempt tells changes no figure.
    """
    by_job = sorted(told, key=_job)  # held in one order, so that no two replicas wait in a circle
    for _, events in groupby(by_job, key=_job):
        await _hear_one(unit, list(events))


async def early(unit: Unit, told: Collection[Telemetry]) -> Set[Telemetry]:
    """Those whose predecessors are neither in the history nor among `told`.

    The bus delivers again what a killed process had in hand, but behind what came since: whoever
    waits for it keeps the order.
    """
    too_early: set[Telemetry] = set()
    for _, events in groupby(sorted(told, key=_job), key=_job):
        too_early |= await _early_of_one(unit, sorted(events, key=attrgetter("place")))
    return too_early


async def _early_of_one(unit: Unit, told: Sequence[Telemetry]) -> Set[Telemetry]:
    """`told` is of one job and in its order."""
    job = await unit.jobs.find(told[0].job)
    if job is None or job.state in FINAL:
        return frozenset()  # they are dropped whenever they come
    before = [(event.attempt, event.number - 1) for event in told]
    there = set(await unit.history.known(job.name, before))
    too_early: set[Telemetry] = set()
    for event, predecessor in zip(told, before, strict=True):
        if event.number == 1 or event.attempt > job.attempt or predecessor in there:
            there.add(event.place)
        else:
            too_early.add(event)
    return too_early


async def _hear_one(unit: Unit, told: Sequence[Telemetry]) -> None:
    name = told[0].job
    before = await unit.jobs.hold(name)
    if before is None or before.state in FINAL:
        _drop(name, told, before)
        return
    fresh = await _fresh(unit, before, told)
    if not fresh:
        return
    now, after = await unit.now(), before
    for event in fresh:
        after = after.heard(event.attempt, event.report, now)
    after = replace(after, resumes=await _resumes(unit, before, fresh))
    await unit.history.add_telemetry(fresh, before.event_count + 1)
    await _tell_attempts(unit, name, fresh)
    await unit.jobs.replace(before, after)
    unit.announce(after)


async def _tell_attempts(unit: Unit, job: TuningJobName, fresh: Sequence[Telemetry]) -> None:
    """Which steps an attempt did shows from its own events."""
    last: dict[int, int] = {}
    for event in fresh:
        match event.report:
            case Started(start_step=step):
                await unit.attempts.tell_start(job, event.attempt, step)
            case Stepped(step=step):
                last[event.attempt] = max(step, last.get(event.attempt, 0))
            case _:
                pass
    for attempt, step in last.items():
        await unit.attempts.tell_step(job, attempt, step)


async def _resumes(unit: Unit, job: TuningJob, fresh: Sequence[Telemetry]) -> Resumes:
    """The history does not have the `fresh` events yet."""
    steps = steps_to_compare(job.resumes, fresh)
    told = await unit.history.losses(job.name, steps) if steps else ()
    return certified(job.resumes, fresh, told)


async def _fresh(unit: Unit, job: TuningJob, told: Sequence[Telemetry]) -> list[Telemetry]:
    """The events that the history lacks, each once."""
    future = [event for event in told if event.attempt > job.attempt]
    if future:
        _drop(job.name, future, job)
    new = {event.place: event for event in told if event.attempt <= job.attempt}
    known = await unit.history.known(job.name, list(new))
    return [event for place, event in new.items() if place not in known]


def _job(event: Telemetry) -> str:
    return str(event.job)


def _drop(name: TuningJobName, told: Sequence[Telemetry], job: TuningJob | None) -> None:
    log.warning(
        "telemetry.dropped",
        job=str(name),
        places=[event.place for event in told],
        state=job.state if job else None,
    )
