"""What nodes tell, written into the histories of their jobs."""

from collections.abc import Sequence
from itertools import groupby

import structlog
from structlog.typing import FilteringBoundLogger

from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.ports import Unit
from services.trainer.control.domain.progress import Telemetry
from services.trainer.control.domain.states import FINAL

log: FilteringBoundLogger = structlog.get_logger(__name__)


async def hear(unit: Unit, told: Sequence[Telemetry]) -> None:
    """Adds events to the histories of their jobs, each once, in their order.

    Nothing comes after a job's final event, and what an earlier attempt tells changes no figure.
    """
    by_job = sorted(told, key=_job)  # held in one order, so that no two replicas wait in a circle
    for _, events in groupby(by_job, key=_job):
        await _hear_one(unit, list(events))


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
    await unit.history.add_telemetry(fresh, before.event_count + 1)
    await unit.jobs.replace(before, after)
    unit.announce(after)


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
