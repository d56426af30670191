"""Searches, and the jobs that are their trials."""

import sqlalchemy as sa
from alembic import op

from services.common.columns import UtcDateTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    none = sa.Column("tuning_sweep", sa.String(), nullable=False, server_default="")
    op.add_column("jobs", none)
    op.create_index("ix_jobs_tuning_sweep", "jobs", ["tuning_sweep"])
    op.create_table(
        "sweeps",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("base_model", sa.String(), nullable=False),
        sa.Column("dataset_version", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("spec", sa.String(), nullable=False),
        sa.Column("search", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("trials", sa.String(), nullable=False),
        sa.Column("winner", sa.String(), nullable=False),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.Column("end_time", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_sweeps"),
    )
    columns = ["project", "create_time", "name"]
    op.create_index("ix_sweeps_project_create_time_name", "sweeps", columns)
