"""Deadlines: when one passes, a job that runs hears of it with its heartbeat; this is about those
that wait."""

from datetime import datetime

from services.common.faults import InvalidArgument
from services.trainer.control.domain.changes import change
from services.trainer.control.domain.endings import WORDS, Cause
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.ports import Store
from services.trainer.control.domain.recurring import repeat
from services.trainer.control.domain.states import WAITING, State
from services.trainer.control.domain.sweeps.trials import hold_to_end, tell_sweep

_AT_ONCE = 100


def require_future(deadline: datetime | None, now: datetime, field: str) -> None:
    """Raises InvalidArgument."""
    if deadline is not None and deadline <= now:
        raise InvalidArgument.of(field, "lies in the past; set a later one", "DEADLINE_PASSED")


class Deadlines:
    """Ends, or has a node finish, the jobs that would wait beyond their deadlines."""

    def __init__(self, store: Store, every_s: float = 1.0) -> None:
        self._store = store
        self._every_s = every_s

    async def run(self) -> None:
        """Runs until it is cancelled, through outages of the database."""
        await repeat(self.enforce, self._every_s, "deadlines.paused")

    async def enforce(self) -> None:
        """Raises Unavailable and Aborted."""
        async with self._store.reading() as unit:
            names = await unit.jobs.overdue(await unit.now(), _AT_ONCE)
        for name in names:
            await self._enforce_one(name)

    async def _enforce_one(self, name: TuningJobName) -> None:
        """Unless it was taken, cancelled or ended since it was looked up."""
        async with self._store.writing() as unit:
            job, now = await hold_to_end(unit, name), await unit.now()
            if job.state not in WAITING:
                return
            checkpoints = await unit.checkpoints.of(name)
            after = job.overdue(now, any(one.step > 0 for one in checkpoints))
            failed = after.state is State.FAILED
            await change(unit, job, after, WORDS[Cause.DEADLINE] if failed else "")
            await tell_sweep(unit, after, after.failure if failed else None)
