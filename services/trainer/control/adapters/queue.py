"""The queue as SQL: which lines there are, the head of one, and what projects have taken."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import exists, func, literal, tuple_
from sqlmodel import col, select, update
from structlog.typing import FilteringBoundLogger

from services.common.columns import UtcDateTime
from services.common.store import Session, insert_new
from services.trainer.control.adapters import outlooks
from services.trainer.control.adapters.rows import tuning_job
from services.trainer.control.adapters.tables import JobRow, ProjectRow, QueueRow, in_states
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.queue.forecast import Outlook
from services.trainer.control.domain.queue.lines import Line, line_named, line_of
from services.trainer.control.domain.queue.shares import Quota, Share, Waiting
from services.trainer.control.domain.states import ACTIVE, HELD, State

log: FilteringBoundLogger = structlog.get_logger(__name__)

_FRESH = {"populate_existing": True}
_DIRECT = {"synchronize_session": False}
_CLAIM_LOCK = 0x616E6E65616C03
_QUEUED = in_states({State.QUEUED})
_ACTIVE = in_states(ACTIVE)
_HELD = in_states(HELD)


class SqlQueue:
    """The queue of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def waiting(self, now: datetime) -> Sequence[Waiting]:
        """Leaps through the index from line to line: the cost grows with the lines alone."""
        first = select(func.min(JobRow.line).label("line")).where(_QUEUED)
        lines = first.cte("lines", recursive=True)
        following = (
            select(func.min(JobRow.line))
            .where(_QUEUED, col(JobRow.line) > lines.c.line)
            .correlate(lines)
            .scalar_subquery()
        )
        lines = lines.union_all(select(following).where(lines.c.line.is_not(None)))
        head = (
            select(JobRow.create_time, JobRow.ready_time)
            .where(_QUEUED, col(JobRow.line) == lines.c.line, col(JobRow.ready_time) <= now)
            .order_by(col(JobRow.create_time), col(JobRow.name))
            .limit(1)
            .correlate(lines)
        )
        created, ready = (head.with_only_columns(time) for time in head.selected_columns)
        rows = await self._session.exec(
            select(lines.c.line, created.scalar_subquery(), ready.scalar_subquery()).where(
                lines.c.line.is_not(None)
            )
        )
        return [Waiting(line, *times) for line, times in _readable(rows) if None not in times]

    async def running_jobs(self) -> Mapping[str, int]:
        counts = select(JobRow.project, func.count()).where(_HELD).group_by(col(JobRow.project))
        return {project: count for project, count in await self._session.exec(counts)}

    async def queued_jobs(self, project: str, limit: int) -> int:
        queued = col(JobRow.state) == State.QUEUED.value
        theirs = (
            select(JobRow.name).where(_ACTIVE, queued, col(JobRow.project) == project).limit(limit)
        )
        counted = select(func.count()).select_from(theirs.subquery())
        return (await self._session.exec(counted)).one()

    async def is_active(self, project: str) -> bool:
        active = exists().where(_ACTIVE, col(JobRow.project) == project)
        return (await self._session.exec(select(active))).one()

    async def shares(self, projects: Collection[str]) -> Mapping[str, Share]:
        wanted = select(ProjectRow).where(col(ProjectRow.project).in_(projects))
        rows = await self._session.exec(wanted, execution_options=_FRESH)
        return {row.project: _share(row) for row in rows}

    async def claim_alone(self) -> None:
        """SQLite has one writer anyhow."""
        connection = await self._session.connection()
        if connection.dialect.name == "postgresql":
            await connection.execute(select(func.pg_advisory_xact_lock(_CLAIM_LOCK)))

    async def hold(self, project: str) -> Share:
        wanted = select(ProjectRow).where(col(ProjectRow.project) == project).with_for_update()
        row = (await self._session.exec(wanted, execution_options=_FRESH)).one_or_none()
        if row is None:
            await insert_new(self._session, ProjectRow, _values(Share(project)))
            row = (await self._session.exec(wanted, execution_options=_FRESH)).one()
        return _share(row)

    async def put(self, share: Share) -> None:
        row = update(ProjectRow).where(col(ProjectRow.project) == share.project)
        await self._session.exec(row.values(_values(share)), execution_options=_DIRECT)

    async def served_s(self) -> float:
        return (await self._session.exec(select(QueueRow.virtual_time_s))).one_or_none() or 0.0

    async def serve(self, virtual_time_s: float) -> None:
        if await insert_new(self._session, QueueRow, {"id": 1, "virtual_time_s": virtual_time_s}):
            return
        behind = update(QueueRow).where(col(QueueRow.virtual_time_s) < virtual_time_s)
        moved = behind.values(virtual_time_s=virtual_time_s)
        await self._session.exec(moved, execution_options=_DIRECT)

    async def take(
        self, line: Line, node: str, now: datetime, lease: timedelta
    ) -> TuningJob | None:
        head = (
            select(JobRow.name)
            .where(_QUEUED, col(JobRow.line) == line.key, col(JobRow.ready_time) <= now)
            .order_by(col(JobRow.create_time), col(JobRow.name))
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        taken = (
            update(JobRow)
            .where(col(JobRow.name) == head.scalar_subquery(), _QUEUED)
            .values(
                state=State.RUNNING.value,
                attempt=col(JobRow.attempt) + 1,
                event_count=col(JobRow.event_count) + 1,
                attempt_event_count=0,
                failure=None,
                node=node,
                claim_time=now,
                charged_s=0.0,
                lease_expire_time=now + lease,
                start_time=func.coalesce(col(JobRow.start_time), literal(now, UtcDateTime())),
                update_time=now,
            )
            .returning(JobRow)
        )
        rows = await self._session.exec(taken, execution_options=_DIRECT | _FRESH)
        row = rows.scalar_one_or_none()
        return None if row is None else tuning_job(row)

    async def running(self) -> Sequence[TuningJob]:
        rows = await self._session.exec(select(JobRow).where(_HELD), execution_options=_FRESH)
        return [tuning_job(row) for row in rows]

    async def unlined(self, limit: int) -> Sequence[TuningJobName]:
        wanted = select(JobRow.name).where(_QUEUED, col(JobRow.line) == "").limit(limit)
        return [TuningJobName.parse(name) for name in await self._session.exec(wanted)]

    async def line_up(self, job: TuningJob) -> None:
        row = update(JobRow).where(col(JobRow.name) == str(job.name)).values(line=_line_of(job))
        await self._session.exec(row, execution_options=_DIRECT)

    async def ahead(self, line: Line, job: TuningJob) -> int:
        time, name = col(JobRow.create_time), col(JobRow.name)
        before = tuple_(time, name) < tuple_(literal(job.create_time, UtcDateTime()), str(job.name))
        counted = select(func.count()).where(_QUEUED, col(JobRow.line) == line.key, before)
        return (await self._session.exec(counted)).one()

    async def outlook(self, now: datetime, offers: Sequence[Offer]) -> Outlook:
        session = self._session
        queued, past = await outlooks.queued(session), await outlooks.past(session)
        came = await outlooks.came(session, now, queued, past)
        projects = {kind.line.project for kind in came} | {one.line.project for one in queued}
        return Outlook(
            now=now,
            queued=queued,
            held=await outlooks.held(session, now),
            offers=tuple(offers),
            shares=await self.shares(projects),
            past=past,
            came=came,
            virtual_time_s=await self.served_s(),
        )


def _line_of(job: TuningJob) -> str:
    return line_of(job.name.project, job.spec.settings).key


def _readable(rows: Iterable[Any]) -> Iterator[tuple[Line, tuple[datetime, datetime]]]:
    """But for lines of jobs that a replica of another version has queued."""
    for key, *times in rows:
        try:
            yield line_named(key), (times[0], times[1])
        except ValueError:
            log.warning("queue.line_unknown", line=key)


def _values(share: Share) -> dict[str, object]:
    quota = share.quota
    return {
        "project": share.project,
        "weight": quota.weight,
        "max_running_jobs": quota.max_running_jobs,
        "max_queued_jobs": quota.max_queued_jobs,
        "max_device_hours_a_day": quota.max_device_hours_a_day,
        "pass_s": share.pass_s,
        "used_s": share.used_s,
        "used_today_s": share.used_today_s,
        "day": share.day,
    }


def _share(row: ProjectRow) -> Share:
    quota = Quota(row.max_running_jobs, row.max_queued_jobs, row.max_device_hours_a_day, row.weight)
    return Share(row.project, quota, row.pass_s, row.used_s, row.used_today_s, row.day)
