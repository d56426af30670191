"""How resumed attempts agree with those before them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    none = sa.Column("resumes", sa.String(), nullable=False, server_default="[]")
    op.add_column("jobs", none)
    op.add_column("job_events", sa.Column("step", sa.Integer(), nullable=True))
    op.create_index("ix_job_events_job_step", "job_events", ["job", "step"])
