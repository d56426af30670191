"""Jobs as rows, changed by compare-and-set."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import and_, not_, or_
from sqlmodel import col, select, update
from sqlmodel.sql.expression import SelectOfScalar

from services.common.faults import Aborted
from services.common.filters_sql import to_sql
from services.common.store import Session, insert_new
from services.trainer.control.adapters.rows import changing_values, fixed_values, tuning_job
from services.trainer.control.adapters.tables import CheckpointRow, JobRow, in_states
from services.trainer.control.domain.errors import TuningJobExists
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.ports import JobQuery
from services.trainer.control.domain.states import WAITING, State
from services.trainer.control.domain.tuning_jobs import FILTER_FIELDS

_FRESH = {"populate_existing": True}
_DIRECT = {"synchronize_session": False}

_COLUMNS = JobRow.metadata.tables["jobs"].c
FILTER_COLUMNS = {field: _COLUMNS[field] for field in FILTER_FIELDS}


class Overtaken(Aborted):
    """The row is not what this transaction had read, although it held it."""

    def __init__(self, name: TuningJobName) -> None:
        super().__init__(
            "CONCURRENT_CHANGE", f"{name} was changed meanwhile; repeat the request", resource=name
        )


class SqlJobs:
    """The jobs of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, job: TuningJob) -> None:
        if not await insert_new(self._session, JobRow, fixed_values(job) | changing_values(job)):
            raise TuningJobExists(job.name)

    async def find(self, name: TuningJobName) -> TuningJob | None:
        return await self._one(_named(name))

    async def find_all(self, names: Sequence[TuningJobName]) -> Mapping[TuningJobName, TuningJob]:
        wanted = select(JobRow).where(col(JobRow.name).in_([str(name) for name in names]))
        rows = await self._session.exec(wanted, execution_options=_FRESH)
        jobs = [tuning_job(row) for row in rows]
        return {job.name: job for job in jobs}

    async def hold(self, name: TuningJobName) -> TuningJob | None:
        """SQLite has one writer, who needs no lock on a row."""
        return await self._one(_named(name).with_for_update())

    async def replace(self, before: TuningJob, after: TuningJob) -> None:
        unchanged = (
            col(JobRow.name) == str(before.name),
            col(JobRow.state) == before.state.value,
            col(JobRow.attempt) == before.attempt,
            col(JobRow.event_count) == before.event_count,
        )
        written = await self._session.exec(
            update(JobRow).where(*unchanged).values(_changed(before, after)),
            execution_options=_DIRECT,
        )
        if written.rowcount != 1:
            raise Overtaken(before.name)

    async def expired(self, now: datetime) -> Sequence[TuningJobName]:
        over = select(JobRow.name).where(col(JobRow.lease_expire_time) <= now)
        return [TuningJobName.parse(name) for name in await self._session.exec(over)]

    async def overdue(self, now: datetime, limit: int) -> Sequence[TuningJobName]:
        theirs = col(CheckpointRow.job) == col(JobRow.name)
        saved = select(CheckpointRow.job).where(theirs, col(CheckpointRow.step) > 0).exists()
        paused = col(JobRow.state) == State.PAUSED.value
        over = (
            select(JobRow.name)
            .where(
                in_states(WAITING),
                col(JobRow.deadline) <= now,
                or_(paused, not_(saved)),
            )
            .limit(limit)
        )
        return [TuningJobName.parse(name) for name in await self._session.exec(over)]

    async def newest(self, query: JobQuery) -> Sequence[TuningJob]:
        wanted = select(JobRow).where(col(JobRow.project) == query.project)
        if query.filter is not None:
            wanted = wanted.where(to_sql(query.filter, FILTER_COLUMNS))
        if query.after is not None:
            time, name = query.after
            older = col(JobRow.create_time) < time
            beside = and_(col(JobRow.create_time) == time, col(JobRow.name) < name)
            wanted = wanted.where(or_(older, beside))
        wanted = wanted.order_by(col(JobRow.create_time).desc(), col(JobRow.name).desc())
        rows = await self._session.exec(wanted.limit(query.limit))
        return [tuning_job(row) for row in rows]

    async def event_counts(self, names: Sequence[TuningJobName]) -> Mapping[TuningJobName, int]:
        wanted = select(JobRow.name, JobRow.event_count).where(
            col(JobRow.name).in_([str(name) for name in names])
        )
        rows = await self._session.exec(wanted)
        return {TuningJobName.parse(name): count for name, count in rows}

    async def _one(self, wanted: SelectOfScalar[JobRow]) -> TuningJob | None:
        row = (await self._session.exec(wanted, execution_options=_FRESH)).one_or_none()
        return None if row is None else tuning_job(row)


def _named(name: TuningJobName) -> SelectOfScalar[JobRow]:
    return select(JobRow).where(col(JobRow.name) == str(name))


def _changed(before: TuningJob, after: TuningJob) -> dict[str, object]:
    """The columns that differ; the state at least, so that there is something to compare."""
    old, new = changing_values(before), changing_values(after)
    differing = {key: value for key, value in new.items() if value != old[key]}
    return differing | {"state": new["state"]}
