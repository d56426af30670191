"""The trials of sweeps in the transactions that end their jobs: nothing runs in the background."""

import math
from datetime import datetime

from services.trainer.control.domain.changes import enter
from services.trainer.control.domain.endings import Ending, Failure, Result
from services.trainer.control.domain.errors import existing
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.ports import Unit
from services.trainer.control.domain.queue.claims import join
from services.trainer.control.domain.states import FINAL, State
from services.trainer.control.domain.sweeps.errors import existing_sweep
from services.trainer.control.domain.sweeps.sweep import (
    Outcome,
    Scored,
    Sweep,
    SweepState,
    Unscored,
)


async def hold_to_end(unit: Unit, name: TuningJobName) -> TuningJob:
    """The job, held by a transaction that may end it. Of a trial the sweep is held first, as by
    all others, so that no two wait in a circle and two trials that end at the same moment are
    heard one after the other. Raises TuningJobNotFound."""
    job = existing(name, await unit.jobs.find(name))
    if job.sweep is not None:
        existing_sweep(job.sweep, await unit.sweeps.hold(job.sweep))
    return existing(name, await unit.jobs.hold(name))


async def with_free_ids(unit: Unit, sweep: Sweep, known: int) -> Sweep:
    """Gives trials, but for the first `known`, other ids where a job has theirs already. Today
    nobody can make such a job, but older versions let callers choose any id."""
    while taken := await unit.jobs.find_all([trial.job for trial in sweep.trials[known:]]):
        sweep = sweep.with_other_ids(taken.keys())
    return sweep


async def enter_trials(unit: Unit, sweep: Sweep, known: int, now: datetime) -> None:
    """Queues the jobs of all trials but the first `known`."""
    for trial in sweep.trials[known:]:
        job = sweep.job_of(trial, now)
        await join(unit, job)
        await enter(unit, job)


async def tell_sweep(unit: Unit, job: TuningJob, ending: Ending | None) -> TuningJob:
    """Carries on the sweep of a trial that has reached a final state; `ending` is that of its last
    attempt, None if none was under way. Does nothing for other jobs.

    The job comes from `hold_to_end` in this transaction and is written already. Returns it as it
    then is.
    """
    if job.sweep is None or job.state not in FINAL:
        return job
    before = existing_sweep(job.sweep, await unit.sweeps.hold(job.sweep))
    if before.state is not SweepState.RUNNING:
        return job
    now = await unit.now()
    known = len(before.trials)
    after = before.heard(job.name, outcome_of(job, ending), now)
    after = await with_free_ids(unit, after, known)
    await unit.sweeps.replace(after)
    await enter_trials(unit, after, known, now)
    if after.winner is None or after.winning_result is None:
        return job
    winner = job if job.name == after.winner else await unit.jobs.hold(after.winner)
    won = await _register(unit, existing(after.winner, winner), after.winning_result)
    return won if won.name == job.name else job


def outcome_of(job: TuningJob, ending: Ending | None) -> Outcome:
    """What the end of a trial's job says. `ending` is None where no attempt was under way.

    The loss is the result's own, which the node tells with it; the events, which tell it too, may
    come late.
    """
    if job.state is State.CANCELLED or ending is None:
        return Unscored("it was cancelled")
    if isinstance(ending, Failure):
        return Unscored(ending.words)
    loss = ending.metrics.get("validation_loss", job.progress.validation_loss)
    if loss is None or not math.isfinite(loss):
        return Unscored("it has no held-out loss: too few examples, or one that is no number")
    return Scored(loss, ending)


async def _register(unit: Unit, job: TuningJob, result: Result) -> TuningJob:
    """The one trial of a sweep that the registry hears of."""
    registered = job.registered(result)
    await unit.jobs.replace(job, registered)
    await unit.news.job_succeeded(registered, result)
    return registered
