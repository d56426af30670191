"""Models, versions, aliases, and what is known of base models."""

import sqlalchemy as sa
from alembic import op

from services.common.columns import UtcDateTime
from services.common.migrations import create_common_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_common_tables(op)
    op.create_table(
        "models",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("latest_version", sa.String(), nullable=False),
        sa.Column("version_count", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("project", "model", name="pk_models"),
    )
    op.create_table(
        "versions",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("manifest_digest", sa.String(), nullable=False),
        sa.Column("artifacts", sa.JSON(), nullable=False),
        sa.Column("tuning_job", sa.String(), nullable=False),
        sa.Column("dataset_version", sa.String(), nullable=False),
        sa.Column("dataset_digest", sa.String(), nullable=False),
        sa.Column("base_model", sa.String(), nullable=False),
        sa.Column("base_model_digest", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("hyperparameters", sa.JSON(), nullable=False),
        sa.Column("code_version", sa.String(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("project", "model", "version", name="pk_versions"),
        sa.ForeignKeyConstraint(
            ["project", "model"],
            ["models.project", "models.model"],
            name="fk_versions_project_model_models",
        ),
        sa.UniqueConstraint(
            "project", "model", "ordinal", name="uq_versions_project_model_ordinal"
        ),
        sa.UniqueConstraint("tuning_job", name="uq_versions_tuning_job"),
    )
    op.create_table(
        "aliases",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("move", sa.String(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("project", "model", "alias", name="pk_aliases"),
        sa.ForeignKeyConstraint(
            ["project", "model", "version"],
            ["versions.project", "versions.model", "versions.version"],
            name="fk_aliases_project_model_version_versions",
        ),
    )
    op.create_index("ix_aliases_project_model_version", "aliases", ["project", "model", "version"])
    op.create_table(
        "base_models",
        sa.Column("base_model", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("manifest_digest", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("base_model", name="pk_base_models"),
    )
