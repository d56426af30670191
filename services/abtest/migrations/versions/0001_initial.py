"""Experiments, their prompts, answers and votes."""

import sqlalchemy as sa
from alembic import op

from services.common.columns import UtcDateTime
from services.common.migrations import create_common_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_common_tables(op)
    op.create_table(
        "experiments",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("experiment", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("baseline", sa.String(), nullable=False),
        sa.Column("candidate", sa.String(), nullable=False),
        sa.Column("max_output_tokens", sa.Integer(), nullable=False),
        sa.Column("prompt_count", sa.Integer(), nullable=False),
        sa.Column("ready_count", sa.Integer(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("error_code", sa.Integer(), nullable=True),
        sa.Column("error_reason", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("uid", name="pk_experiments"),
        sa.UniqueConstraint("project", "experiment", name="uq_experiments_project_experiment"),
    )
    op.create_index(
        "ix_experiments_project_created_at_uid", "experiments", ["project", "created_at", "uid"]
    )
    op.create_index("ix_experiments_state_created_at", "experiments", ["state", "created_at"])
    op.create_table(
        "prompts",
        sa.Column("experiment_uid", sa.String(), nullable=False),
        sa.Column("prompt_index", sa.Integer(), nullable=False),
        sa.Column("turns", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("experiment_uid", "prompt_index", name="pk_prompts"),
        _of_experiment("prompts"),
    )
    op.create_table(
        "answers",
        sa.Column("experiment_uid", sa.String(), nullable=False),
        sa.Column("prompt_index", sa.Integer(), nullable=False),
        sa.Column("arm", sa.String(), nullable=False),
        sa.Column("text", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("experiment_uid", "prompt_index", "arm", name="pk_answers"),
        _of_experiment("answers"),
    )
    op.create_table(
        "votes",
        sa.Column("experiment_uid", sa.String(), nullable=False),
        sa.Column("prompt_index", sa.Integer(), nullable=False),
        sa.Column("voter", sa.String(), nullable=False),
        sa.Column("choice", sa.String(), nullable=False),
        sa.Column("left_arm", sa.String(), nullable=False),
        sa.Column("first_at", UtcDateTime(), nullable=False),
        sa.Column("voted_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("experiment_uid", "prompt_index", "voter", name="pk_votes"),
        _of_experiment("votes"),
    )


def _of_experiment(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["experiment_uid"],
        ["experiments.uid"],
        name=f"fk_{table}_experiment_uid_experiments",
        ondelete="CASCADE",
    )
