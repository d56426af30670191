"""When the blobs of a job that has ended are removed once more."""

import sqlalchemy as sa
from alembic import op

from services.common.columns import UtcDateTime

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("releases", sa.Column("again_time", UtcDateTime(), nullable=True))
