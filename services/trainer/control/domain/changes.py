"""A change of a job, written as a whole: its row, its history, and the news of it."""

from services.trainer.control.domain.job import FAILED_KEEPS, STRAGGLING, TuningJob
from services.trainer.control.domain.ports import StateChange, Unit
from services.trainer.control.domain.states import FINAL, State


async def enter(unit: Unit, job: TuningJob) -> None:
    """A new job. Raises TuningJobExists."""
    await unit.jobs.add(job)
    await record(unit, StateChange(None, job))


async def change(unit: Unit, before: TuningJob, after: TuningJob, cause: str = "") -> None:
    """`before` was read under `hold` in this transaction."""
    await unit.jobs.replace(before, after)
    if after.state is not before.state:
        await record(unit, StateChange(before.state, after, cause))
        if after.state in FINAL:
            await _let_go(unit, after)


async def _let_go(unit: Unit, job: TuningJob) -> None:
    """Nobody needs the checkpoints of a job that has ended, unless it is retried."""
    if job.state is State.FAILED:
        await unit.checkpoints.release_later(job, job.update_time + FAILED_KEEPS)
    else:
        await unit.checkpoints.release_all(job, job.update_time + STRAGGLING)


async def record(unit: Unit, change: StateChange) -> None:
    """The history and the news of a move whose row is written already."""
    await unit.history.add_change(change)
    await unit.news.job_changed(change)
    unit.announce(change.after)
