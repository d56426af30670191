"""Datasets and their versions."""

import sqlalchemy as sa
from alembic import op

from services.common.columns import UtcDateTime
from services.common.migrations import create_common_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_common_tables(op)
    op.create_table(
        "datasets",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("dataset", sa.String(), nullable=False),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("latest_version", sa.String(), nullable=False),
        sa.Column("version_count", sa.Integer(), nullable=False),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.Column("update_time", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("project", "dataset", name="pk_datasets"),
    )
    op.create_table(
        "dataset_versions",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("dataset", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("example_count", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("source_format", sa.String(), nullable=False),
        sa.Column("source_digest", sa.String(), nullable=False),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("project", "dataset", "version", name="pk_dataset_versions"),
        sa.UniqueConstraint(
            "project", "dataset", "ordinal", name="uq_dataset_versions_project_dataset_ordinal"
        ),
        sa.ForeignKeyConstraint(
            ["project", "dataset"],
            ["datasets.project", "datasets.dataset"],
            name="fk_dataset_versions_project_dataset_datasets",
            ondelete="CASCADE",
        ),
    )
