"""The tables of this service."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, Index, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel

from services.common.columns import UtcDateTime
from services.common.tables import service_registry


class Row(SQLModel, registry=service_registry()):
    """Base of this service's tables."""


def _experiment_key() -> Any:
    """A part of the primary key; rows go with their experiment."""
    return Field(primary_key=True, foreign_key="experiments.uid", ondelete="CASCADE")


class ExperimentRow(Row, table=True):
    """An experiment. `state` goes from generating to ready or failed; `error_…` is of failed."""

    __tablename__: ClassVar[Any] = "experiments"
    __table_args__ = (
        UniqueConstraint("project", "experiment"),
        Index(None, "project", "created_at", "uid"),
        Index(None, "state", "created_at"),
    )

    uid: str = Field(primary_key=True)
    project: str
    experiment: str
    state: str
    baseline: str
    candidate: str
    max_output_tokens: int
    prompt_count: int
    ready_count: int
    secret: bytes = Field(sa_type=LargeBinary)
    error_code: int | None = None
    error_reason: str | None = None
    error_message: str | None = None
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class PromptRow(Row, table=True):
    """A prompt: `turns` is a list of [role, content]."""

    __tablename__: ClassVar[Any] = "prompts"

    experiment_uid: str = _experiment_key()
    prompt_index: int = Field(primary_key=True)
    turns: list[list[str]] = Field(sa_type=JSON)


class AnswerRow(Row, table=True):
    """What an arm said. UTF-8 bytes, because PostgreSQL's texts cannot hold a NUL."""

    __tablename__: ClassVar[Any] = "answers"

    experiment_uid: str = _experiment_key()
    prompt_index: int = Field(primary_key=True)
    arm: str = Field(primary_key=True)
    text: bytes = Field(sa_type=LargeBinary)


class VoteRow(Row, table=True):
    """A voter's judgement of a prompt. `left_arm` is what stood on the left for this voter."""

    __tablename__: ClassVar[Any] = "votes"

    experiment_uid: str = _experiment_key()
    prompt_index: int = Field(primary_key=True)
    voter: str = Field(primary_key=True)
    choice: str
    left_arm: str
    first_at: datetime = Field(sa_type=UtcDateTime)
    voted_at: datetime = Field(sa_type=UtcDateTime)
