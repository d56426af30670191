"""The version that a training went on from."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    none = sa.Column("start_version", sa.String(), nullable=False, server_default="")
    op.add_column("versions", none)
