"""Checkpoints as rows, and those whose blobs are to be removed."""

from collections.abc import Collection, Sequence
from dataclasses import asdict

from sqlmodel import col, delete, select

from services.common.store import Session, insert_new
from services.trainer.checkpoint_owners import owner_of_all, owner_of_one
from services.trainer.control.adapters.tables import CheckpointRow, ReleaseRow
from services.trainer.control.domain.checkpoints import Checkpoint, Checkpoints
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName

_DIRECT = {"synchronize_session": False}


class SqlCheckpoints:
    """The checkpoints of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def of(self, job: TuningJobName) -> Checkpoints:
        wanted = (
            select(CheckpointRow)
            .where(col(CheckpointRow.job) == str(job))
            .order_by(col(CheckpointRow.attempt), col(CheckpointRow.step))
        )
        rows = await self._session.exec(wanted)
        return tuple(Checkpoint(**row.model_dump(exclude={"job"})) for row in rows)

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
            await self._to_remove(owner_of_one(job.uid, one.attempt, one.step))

    async def release_all(self, job: TuningJob) -> None:
        rows = delete(CheckpointRow).where(col(CheckpointRow.job) == str(job.name))
        await self._session.exec(rows, execution_options=_DIRECT)
        await self._to_remove(owner_of_all(job.uid))

    async def released(self, limit: int) -> Sequence[str]:
        wanted = select(ReleaseRow.owner).order_by(col(ReleaseRow.owner)).limit(limit)
        return list(await self._session.exec(wanted))

    async def forget(self, owner: str) -> None:
        row = delete(ReleaseRow).where(col(ReleaseRow.owner) == owner)
        await self._session.exec(row, execution_options=_DIRECT)

    async def _to_remove(self, owner: str) -> None:
        await insert_new(self._session, ReleaseRow, {"owner": owner})
