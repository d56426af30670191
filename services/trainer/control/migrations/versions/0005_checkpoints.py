"""All checkpoints that a job's policy keeps, and those to be removed.

Those of earlier revisions have a form that no engine reads any more: their jobs begin anew.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.drop_column("jobs", "checkpoint")
    op.create_table(
        "checkpoints",
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("manifest_digest", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("validation_loss", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("job", "attempt", "step", name="pk_checkpoints"),
        sa.ForeignKeyConstraint(
            ["job"], ["jobs.name"], name="fk_checkpoints_job_jobs", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "releases",
        sa.Column("owner", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_releases"),
    )
