"""What a claim says to the database, built once: to build a statement takes longer than to carry it
out."""

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Update,
    bindparam,
    case,
    func,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert

from services.common.columns import UtcDateTime
from services.trainer.control.adapters.tables import JobRow, ProjectRow, QueueRow, in_states
from services.trainer.control.domain.states import ACTIVE, HELD, State

_CLAIM_LOCK = 0x616E6E65616C03
_JOBS = JobRow.metadata.tables["jobs"]
_PROJECTS = ProjectRow.metadata.tables["projects"]
_QUEUE = QueueRow.metadata.tables["queue"]
_QUEUED = in_states({State.QUEUED})
_IN_LINE_ORDER = (_JOBS.c.line, _JOBS.c.create_time, _JOBS.c.name)
_ONE: ColumnElement[int] = literal_column("1")
"""As a parameter, PostgreSQL would plan for any number."""
_NOW = bindparam("at_time", type_=UtcDateTime())


def _waiting(dialect: str) -> Select[Any]:
    """The lines, with `create_time` and `ready_time` of the first job that is ready: NULL if none
    is. Leaps through the index from the head of a line to that of the next: the cost grows with the
    lines alone."""
    heads = select(_JOBS.c.line, _JOBS.c.create_time, _JOBS.c.ready_time).where(_QUEUED)
    heads = heads.order_by(*_IN_LINE_ORDER).limit(_ONE)
    found = select(heads.subquery()).cte("heads", recursive=True)
    behind = heads.where(_JOBS.c.line > found.c.line)
    if dialect == "postgresql":
        leap = behind.lateral()
        found = found.union_all(select(leap).select_from(found.join(leap, true())))
    else:  # SQLite knows no LATERAL, and is quick to find a row by its name
        name = behind.with_only_columns(_JOBS.c.name).correlate(found).scalar_subquery()
        leap = _JOBS.alias("leap")
        found = found.union_all(
            select(leap.c.line, leap.c.create_time, leap.c.ready_time).select_from(
                found.join(leap, leap.c.name == name)
            )
        )
    of_ready = heads.where(_JOBS.c.line == found.c.line, _JOBS.c.ready_time <= _NOW)
    first_ready = (
        case(
            (found.c.ready_time <= _NOW, found.c[time.name]),
            else_=of_ready.with_only_columns(time).correlate(found).scalar_subquery(),
        )
        for time in (_JOBS.c.create_time, _JOBS.c.ready_time)
    )
    return select(found.c.line, *first_ready)


def _standings() -> Select[Any]:
    """The projects with jobs that wait or run, leapt to in the same way, and how many run. One
    without a row has no quota that it could have used up."""
    active = in_states(ACTIVE)
    projects = select(func.min(_JOBS.c.project).label("project")).where(active)
    found = projects.cte("active", recursive=True)
    following = projects.where(_JOBS.c.project > found.c.project).correlate(found)
    found = found.union_all(select(following.scalar_subquery()).where(found.c.project.is_not(None)))
    counts = select(_JOBS.c.project, func.count().label("running_jobs"))
    held = counts.where(in_states(HELD)).group_by(_JOBS.c.project).subquery()
    running = func.coalesce(held.c.running_jobs, 0).label("running_jobs")
    known = found.join(_PROJECTS, _PROJECTS.c.project == found.c.project)
    return select(_PROJECTS, running).select_from(
        known.outerjoin(held, held.c.project == found.c.project)
    )


def _taking() -> Update:
    head = (
        select(_JOBS.c.name)
        .where(_QUEUED, _JOBS.c.line == bindparam("of_line"), _JOBS.c.ready_time <= _NOW)
        .order_by(_JOBS.c.create_time, _JOBS.c.name)
        .limit(_ONE)
        .with_for_update(skip_locked=True)
    )
    return (
        update(_JOBS)
        .where(_JOBS.c.name == head.scalar_subquery(), _QUEUED)
        .values(
            state=State.RUNNING.value,
            attempt=_JOBS.c.attempt + 1,
            event_count=_JOBS.c.event_count + 1,
            attempt_event_count=0,
            failure=None,
            node=bindparam("by_node"),
            claim_time=_NOW,
            charged_s=bindparam("charge_s"),
            lease_expire_time=bindparam("until", type_=UtcDateTime()),
            start_time=func.coalesce(_JOBS.c.start_time, _NOW),
            update_time=_NOW,
        )
        .returning(*_JOBS.c)
    )


def _serving(dialect: str) -> PostgresInsert | SqliteInsert:
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    first = insert(_QUEUE)
    further = _QUEUE.c.virtual_time_s < first.excluded.virtual_time_s
    come_to = {"virtual_time_s": first.excluded.virtual_time_s}
    return first.on_conflict_do_update(index_elements=["id"], set_=come_to, where=further)


_DIALECTS = ("postgresql", "sqlite")

LOCK = select(func.pg_advisory_xact_lock(_CLAIM_LOCK))
"""PostgreSQL only."""
WAITING = {dialect: _waiting(dialect) for dialect in _DIALECTS}
"""Of `at_time`."""
STANDINGS = _standings()
TAKE = _taking()
"""Of `of_line`, `by_node`, `charge_s`, `at_time` and `until`."""
SERVE = {dialect: _serving(dialect) for dialect in _DIALECTS}
"""Of the row of the queue."""
HOLD_SHARE = select(_PROJECTS).where(_PROJECTS.c.project == bindparam("of")).with_for_update()
"""Of `of`, a project."""
PUT_SHARE = update(_PROJECTS).where(_PROJECTS.c.project == bindparam("of"))
"""Of `of`, a project, and its row."""
