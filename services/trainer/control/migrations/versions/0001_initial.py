"""Jobs, their attempts and their histories."""

import sqlalchemy as sa
from alembic import op

from services.common.columns import UtcDateTime
from services.common.migrations import create_common_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_common_tables(op)
    _create_jobs()
    _create_attempts()
    _create_job_events()


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("base_model", sa.String(), nullable=False),
        sa.Column("dataset_version", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("spec", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("event_count", sa.BigInteger(), nullable=False),
        sa.Column("attempt_event_count", sa.BigInteger(), nullable=False),
        sa.Column("progress", sa.String(), nullable=False),
        sa.Column("failure", sa.String(), nullable=True),
        sa.Column("checkpoint", sa.String(), nullable=True),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.Column("update_time", UtcDateTime(), nullable=False),
        sa.Column("ready_time", UtcDateTime(), nullable=False),
        sa.Column("lease_expire_time", UtcDateTime(), nullable=True),
        sa.Column("start_time", UtcDateTime(), nullable=True),
        sa.Column("end_time", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_jobs"),
    )
    columns = ["create_time", "name"]
    op.create_index("ix_jobs_project_create_time_name", "jobs", ["project", *columns])
    op.create_index("ix_jobs_state_create_time_name", "jobs", ["state", *columns])
    op.create_index("ix_jobs_lease_expire_time", "jobs", ["lease_expire_time"])


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("start_time", UtcDateTime(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("end_time", UtcDateTime(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("mark", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("job", "number", name="pk_attempts"),
        sa.UniqueConstraint("request_id", name="uq_attempts_request_id"),
        sa.ForeignKeyConstraint(
            ["job"], ["jobs.name"], name="fk_attempts_job_jobs", ondelete="CASCADE"
        ),
    )


def _create_job_events() -> None:
    op.create_table(
        "job_events",
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=True),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("job", "sequence", name="pk_job_events"),
        sa.UniqueConstraint("job", "attempt", "number", name="uq_job_events_job_attempt_number"),
        sa.ForeignKeyConstraint(
            ["job"], ["jobs.name"], name="fk_job_events_job_jobs", ondelete="CASCADE"
        ),
    )
