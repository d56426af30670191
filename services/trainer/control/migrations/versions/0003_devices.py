"""What nodes train on and with, and what finished runs took of it."""

import sqlalchemy as sa
from alembic import op

from services.common.columns import UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    builtin = sa.Column("backend", sa.String(), nullable=False, server_default="BUILTIN")
    op.add_column("jobs", builtin)
    op.create_table(
        "nodes",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=True),
        sa.Column("backends", sa.String(), nullable=False),
        sa.Column("update_time", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_nodes"),
    )
    op.create_index("ix_nodes_update_time", "nodes", ["update_time"])
    op.create_table(
        "residuals",
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("device_model", sa.String(), nullable=False),
        sa.Column("peak_ratio", sa.Float(), nullable=True),
        sa.Column("duration_ratio", sa.Float(), nullable=True),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("job", name="pk_residuals"),
        sa.ForeignKeyConstraint(
            ["job"], ["jobs.name"], name="fk_residuals_job_jobs", ondelete="CASCADE"
        ),
    )
    columns = ["method", "device_model", "time"]
    op.create_index("ix_residuals_method_device_model_time", "residuals", columns)
