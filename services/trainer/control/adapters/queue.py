"""The queue as SQL: which lines there are, the head of one, and what projects have taken."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import CursorResult, Executable, exists, func, literal, tuple_
from sqlmodel import col, select, update
from structlog.typing import FilteringBoundLogger

from services.common.columns import UtcDateTime
from services.common.store import Session, insert_new
from services.trainer.control.adapters import outlooks
from services.trainer.control.adapters.claim_sql import (
    HOLD_SHARE,
    LOCK,
    PUT_SHARE,
    SERVE,
    STANDINGS,
    TAKE,
    WAITING,
)
from services.trainer.control.adapters.rows import tuning_job
from services.trainer.control.adapters.tables import JobRow, ProjectRow, QueueRow, in_states
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.queue.forecast import Outlook
from services.trainer.control.domain.queue.lines import Line, is_line_of, line_named, line_of
from services.trainer.control.domain.queue.shares import Quota, Share, Waiting
from services.trainer.control.domain.states import ACTIVE, HELD, State

log: FilteringBoundLogger = structlog.get_logger(__name__)

_FRESH = {"populate_existing": True}
_DIRECT = {"synchronize_session": False}
_AT_ANY_TIME = datetime(9999, 1, 1, tzinfo=UTC)
_QUEUED = in_states({State.QUEUED})
_ACTIVE = in_states(ACTIVE)
_HELD = in_states(HELD)


class SqlQueue:
    """The queue of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def waiting(self, now: datetime) -> Sequence[Waiting]:
        rows = await self._executed(WAITING[self._dialect], {"at_time": now})
        return [
            Waiting(line, since, ready_since)
            for key, since, ready_since in rows
            if since is not None and (line := _line(key)) is not None
        ]

    async def standings(self) -> tuple[Mapping[str, Share], Mapping[str, int]]:
        rows = (await self._executed(STANDINGS)).all()
        shares = {row.project: _share(row) for row in rows}
        return shares, {row.project: row.running_jobs for row in rows}

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

    async def has_line(self, line: Line) -> bool:
        waits = exists().where(_QUEUED, col(JobRow.line) == line.key)
        return (await self._session.exec(select(waits))).one()

    async def line_count(self, project: str) -> int:
        """Leaps from line to line of all projects, as `waiting` does."""
        rows = await self._executed(WAITING[self._dialect], {"at_time": _AT_ANY_TIME})
        return sum(is_line_of(key, project) for key, *_ in rows)

    async def is_active(self, project: str) -> bool:
        active = exists().where(_ACTIVE, col(JobRow.project) == project)
        return (await self._session.exec(select(active))).one()

    async def shares(self, projects: Collection[str]) -> Mapping[str, Share]:
        wanted = select(ProjectRow).where(col(ProjectRow.project).in_(projects))
        rows = await self._session.exec(wanted, execution_options=_FRESH)
        return {row.project: _share(row) for row in rows}

    async def claim_alone(self) -> None:
        """SQLite has one writer anyhow."""
        if self._dialect == "postgresql":
            await self._executed(LOCK)

    async def hold(self, project: str) -> Share:
        row = (await self._executed(HOLD_SHARE, {"of": project})).one_or_none()
        if row is None:
            await insert_new(self._session, ProjectRow, _values(Share(project)))
            row = (await self._executed(HOLD_SHARE, {"of": project})).one()
        return _share(row)

    async def put(self, share: Share) -> None:
        await self._executed(PUT_SHARE, {"of": share.project, **_values(share)})

    async def served_s(self) -> float:
        return (await self._session.exec(select(QueueRow.virtual_time_s))).one_or_none() or 0.0

    async def serve(self, virtual_time_s: float) -> None:
        row = {"id": 1, "virtual_time_s": virtual_time_s}
        await self._executed(SERVE[self._dialect], row)

    async def take(
        self, line: Line, node: str, now: datetime, lease: timedelta, charged_s: float
    ) -> TuningJob | None:
        granted = {
            "of_line": line.key,
            "by_node": node,
            "charge_s": charged_s,
            "at_time": now,
            "until": now + lease,
        }
        row = (await self._executed(TAKE, granted)).one_or_none()
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
            usual_rate=await outlooks.usual_rate(session, now),
        )

    @property
    def _dialect(self) -> str:
        return self._session.get_bind().dialect.name

    async def _executed(
        self, statement: Executable, values: Mapping[str, object] | None = None
    ) -> CursorResult[*tuple[Any, ...]]:
        """Past the session's objects, which are of no use to a claim."""
        connection = await self._session.connection()
        return await connection.execute(statement, values)


def _line_of(job: TuningJob) -> str:
    return line_of(job.name.project, job.spec.settings).key


def _line(key: str) -> Line | None:
    """None for one of jobs that a replica of another version has queued."""
    try:
        return line_named(key)
    except ValueError:
        log.warning("queue.line_unknown", line=key)
        return None


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


def _share(row: Any) -> Share:
    quota = Quota(row.max_running_jobs, row.max_queued_jobs, row.max_device_hours_a_day, row.weight)
    return Share(row.project, quota, row.pass_s, row.used_s, row.used_today_s, row.day)
