"""Checkpoints as rows, and those whose blobs are to be removed."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import bindparam
from sqlmodel import col, delete, select, update

from services.common.store import Session, insert_new
from services.trainer.checkpoint_owners import owner_of_all, owner_of_one, uid_of_all
from services.trainer.control.adapters.tables import CheckpointRow, ReleaseRow
from services.trainer.control.domain.checkpoints import Checkpoint, Checkpoints
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName

_DIRECT = {"synchronize_session": False}
_CHECKPOINTS = CheckpointRow.metadata.tables["checkpoints"]
_OF_JOB = (
    select(*(column for column in _CHECKPOINTS.c if column.name != "job"))
    .where(_CHECKPOINTS.c.job == bindparam("of"))
    .order_by(_CHECKPOINTS.c.attempt, _CHECKPOINTS.c.step)
)


class SqlCheckpoints:
    """The checkpoints of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def of(self, job: TuningJobName) -> Checkpoints:
        connection = await self._session.connection()
        rows = (await connection.execute(_OF_JOB, {"of": str(job)})).mappings()
        return tuple(Checkpoint(**row) for row in rows)

    async def add(self, job: TuningJobName, checkpoint: Checkpoint) -> None:
        self._session.add(CheckpointRow(job=str(job), **asdict(checkpoint)))
        await self._session.flush()

    async def release(self, job: TuningJob, checkpoints: Collection[Checkpoint]) -> None:
        for one in checkpoints:
            row = delete(CheckpointRow).where(
                col(CheckpointRow.job) == str(job.name),
                col(CheckpointRow.attempt) == one.attempt,
                col(CheckpointRow.step) == one.step,
            )
            await self._session.exec(row, execution_options=_DIRECT)
            owner = owner_of_one(one.job_uid or job.uid, one.attempt, one.step)
            await self._to_remove(owner, job.update_time)

    async def release_all(self, job: TuningJob, again: datetime) -> None:
        rows = delete(CheckpointRow).where(col(CheckpointRow.job) == str(job.name))
        await self._session.exec(rows, execution_options=_DIRECT)
        for uid in job.owners:
            await self._to_remove(owner_of_all(uid), job.update_time, again)

    async def release_later(self, job: TuningJob, due: datetime) -> None:
        for uid in job.owners:
            await self._to_remove(owner_of_all(uid), due)

    async def take_over(self, old: TuningJob, new: TuningJob) -> None:
        rows = update(CheckpointRow).where(col(CheckpointRow.job) == str(old.name))
        await self._session.exec(rows.values(job=str(new.name)), execution_options=_DIRECT)
        for uid in old.owners:
            await self._forget(owner_of_all(uid))

    async def released(self, now: datetime, limit: int) -> Sequence[str]:
        due = select(ReleaseRow.owner).where(col(ReleaseRow.due_time) <= now)
        return list(await self._session.exec(due.order_by(col(ReleaseRow.owner)).limit(limit)))

    async def forget(self, owner: str) -> None:
        """Of a job that FAILED and was not retried the rows are still there."""
        if (uid := uid_of_all(owner)) is not None:
            rows = delete(CheckpointRow).where(col(CheckpointRow.job_uid) == uid)
            await self._session.exec(rows, execution_options=_DIRECT)
        if not await self._put_off(owner):
            await self._forget(owner)

    async def _put_off(self, owner: str) -> bool:
        """Until they are to be removed again, if they are."""
        again = col(ReleaseRow.again_time)
        row = update(ReleaseRow).where(col(ReleaseRow.owner) == owner, again.is_not(None))
        later = row.values(due_time=again, again_time=None)
        return (await self._session.exec(later, execution_options=_DIRECT)).rowcount > 0

    async def _forget(self, owner: str) -> None:
        row = delete(ReleaseRow).where(col(ReleaseRow.owner) == owner)
        await self._session.exec(row, execution_options=_DIRECT)

    async def _to_remove(self, owner: str, due: datetime, again: datetime | None = None) -> None:
        row = {"owner": owner, "due_time": due, "again_time": again}
        await insert_new(self._session, ReleaseRow, row)
