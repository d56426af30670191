"""Lines of the queue, priorities, deadlines, retries, quotas, and what attempts did.

Waiting jobs of earlier revisions stand in lines of normal priority that demand nothing.
"""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from services.common.columns import UtcDateTime

revision = "0006"
down_revision = "0005"

_QUEUED = sa.text("state IN ('QUEUED')")
_ACTIVE = sa.text("state IN ('CANCELLING', 'PAUSING', 'QUEUED', 'RUNNING')")
_HELD = sa.text("state IN ('CANCELLING', 'PAUSING', 'RUNNING')")
_WAITING = sa.text("state IN ('PAUSED', 'QUEUED')")


def upgrade() -> None:
    _change_jobs()
    _change_attempts()
    _change_checkpoints()
    _change_nodes()
    op.create_table(
        "projects",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("max_running_jobs", sa.Integer(), nullable=False),
        sa.Column("max_queued_jobs", sa.Integer(), nullable=False),
        sa.Column("max_device_hours_a_day", sa.Float(), nullable=False),
        sa.Column("pass_s", sa.Float(), nullable=False),
        sa.Column("used_s", sa.Float(), nullable=False),
        sa.Column("used_today_s", sa.Float(), nullable=False),
        sa.Column("day", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("project", name="pk_projects"),
    )
    op.create_table(
        "queue",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("virtual_time_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_queue"),
    )


def _change_jobs() -> None:
    op.drop_index("ix_jobs_state_create_time_name", "jobs")
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(_with_default("priority", sa.String(), "NORMAL"))
        jobs.add_column(_with_default("line", sa.String(), ""))
        jobs.add_column(sa.Column("deadline", UtcDateTime(), nullable=True))
        jobs.add_column(sa.Column("retry_of", sa.String(), nullable=True))
        jobs.add_column(sa.Column("retried_as", sa.String(), nullable=True))
        jobs.add_column(_with_default("origins", sa.String(), "[]"))
        jobs.add_column(_with_default("yields", sa.Boolean(), sa.false()))
        jobs.add_column(_with_default("charged_s", sa.Float(), "0"))
        jobs.add_column(sa.Column("claim_time", UtcDateTime(), nullable=True))
    _put_into_lines()
    op.create_index("ix_jobs_state", "jobs", ["state"], sqlite_where=_HELD, postgresql_where=_HELD)
    op.create_index("ix_jobs_end_time", "jobs", ["end_time"])
    op.create_index(
        "ix_jobs_line_create_time_name",
        "jobs",
        ["line", "create_time", "name"],
        sqlite_where=_QUEUED,
        postgresql_where=_QUEUED,
    )
    op.create_index(
        "ix_jobs_project_state",
        "jobs",
        ["project", "state"],
        sqlite_where=_ACTIVE,
        postgresql_where=_ACTIVE,
    )
    op.create_index(
        "ix_jobs_deadline",
        "jobs",
        ["deadline"],
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    )


def _put_into_lines() -> None:
    jobs = sa.table("jobs", *map(sa.column, ("line", "project", "backend")))
    kinds = op.get_bind().execute(sa.select(jobs.c.project, jobs.c.backend).distinct()).all()
    for project, backend in kinds:
        line = json.dumps([project, "NORMAL", backend, 1, 0, []], separators=(",", ":"))
        theirs = sa.and_(jobs.c.project == project, jobs.c.backend == backend)
        op.execute(sa.update(jobs).where(theirs).values(line=line))


def _change_attempts() -> None:
    with op.batch_alter_table("attempts") as attempts:
        attempts.add_column(sa.Column("start_step", sa.BigInteger(), nullable=True))
        attempts.alter_column("step", type_=sa.BigInteger(), existing_nullable=False)


def _change_checkpoints() -> None:
    checkpoints = sa.table("checkpoints", sa.column("job"), sa.column("job_uid"))
    jobs = sa.table("jobs", sa.column("name"), sa.column("uid"))
    op.add_column("checkpoints", _with_default("job_uid", sa.String(), ""))
    uid = sa.select(jobs.c.uid).where(jobs.c.name == checkpoints.c.job).scalar_subquery()
    op.execute(sa.update(checkpoints).values(job_uid=uid))
    op.create_index("ix_checkpoints_job_uid", "checkpoints", ["job_uid"])
    op.add_column("releases", _with_default("due_time", UtcDateTime(), "0"))
    op.create_index("ix_releases_due_time", "releases", ["due_time"])


def _change_nodes() -> None:
    with op.batch_alter_table("nodes") as nodes:
        nodes.add_column(_with_default("labels", sa.String(), "{}"))
        nodes.add_column(_with_default("free_devices", sa.Integer(), "1"))
        nodes.add_column(sa.Column("capabilities", sa.String(), nullable=True))
        nodes.add_column(_with_default("schedule", sa.String(), "OPEN"))


def _with_default(name: str, kind: Any, default: Any) -> sa.Column[Any]:
    """What rows of earlier revisions have there."""
    return sa.Column(name, kind, nullable=False, server_default=default)
