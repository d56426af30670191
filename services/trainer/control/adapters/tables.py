"""The tables of the trainer's database. What is never asked for by itself is kept as JSON text:
unlike the JSON types of databases, it holds the NaN of a training that diverged."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import BigInteger, Field, SQLModel, col

from services.common.columns import UtcDateTime
from services.common.tables import service_registry
from services.trainer.control.domain.states import ACTIVE, HELD, WAITING, State


class Row(SQLModel, registry=service_registry()):
    """Base of this service's tables."""


def _states_in(states: Collection[State]) -> str:
    words = ", ".join(f"'{state}'" for state in sorted(states))
    return f"state IN ({words})"


def in_states(states: Collection[State]) -> ColumnElement[bool]:
    """As the partial indexes have it, to the letter: SQLite uses none of them for a condition of
    other words, or of parameters."""
    return col(JobRow.state).in_([literal_column(f"'{state}'") for state in sorted(states)])


def _where(states: Collection[State]) -> dict[str, Any]:
    """A partial index, of the rows in these states alone."""
    condition = text(_states_in(states))
    return {"sqlite_where": condition, "postgresql_where": condition}


_WHERE_QUEUED = _where({State.QUEUED})
_WHERE_ACTIVE = _where(ACTIVE)
_WHERE_HELD = _where(HELD)
_WHERE_WAITING = _where(WAITING)


class JobRow(Row, table=True):
    """A job as it stands, with its lease. `line` is that of the queue (`queue.lines`)."""

    __tablename__: ClassVar[Any] = "jobs"
    __table_args__ = (
        Index(None, "project", "create_time", "name"),  # lists
        Index(None, "state", **_WHERE_HELD),  # not of all: SQLite would take it for the lines
        Index(None, "line", "create_time", "name", **_WHERE_QUEUED),
        Index(None, "project", "state", **_WHERE_ACTIVE),
        Index(None, "deadline", **_WHERE_WAITING),
        Index(None, "lease_expire_time"),  # the reaper
        Index(None, "end_time"),  # forecasts
        Index(None, "tuning_sweep"),  # the trials of a sweep
    )

    name: str = Field(primary_key=True)
    uid: str
    project: str
    base_model: str
    dataset_version: str
    model: str
    labels: dict[str, str] = Field(sa_type=JSON)
    backend: str
    tuning_sweep: str
    priority: str
    line: str
    deadline: datetime | None = Field(sa_type=UtcDateTime)
    retry_of: str | None
    origins: str
    spec: str
    state: str
    attempt: int
    failures: int
    event_count: int = Field(sa_type=BigInteger)
    attempt_event_count: int = Field(sa_type=BigInteger)
    progress: str
    failure: str | None
    resumes: str
    model_version: str
    node: str
    retried_as: str | None
    yields: bool
    charged_s: float
    create_time: datetime = Field(sa_type=UtcDateTime)
    update_time: datetime = Field(sa_type=UtcDateTime)
    ready_time: datetime = Field(sa_type=UtcDateTime)
    claim_time: datetime | None = Field(sa_type=UtcDateTime)
    lease_expire_time: datetime | None = Field(sa_type=UtcDateTime)
    start_time: datetime | None = Field(sa_type=UtcDateTime)
    end_time: datetime | None = Field(sa_type=UtcDateTime)


class SweepRow(Row, table=True):
    """A search as it stands. `search` and `trials` are JSON: where it looks, and what it tried."""

    __tablename__: ClassVar[Any] = "sweeps"
    __table_args__ = (Index(None, "project", "create_time", "name"),)  # lists

    name: str = Field(primary_key=True)
    uid: str
    project: str
    base_model: str
    dataset_version: str
    model: str
    spec: str
    search: str
    state: str
    trials: str
    winner: str
    model_version: str
    error: str
    create_time: datetime = Field(sa_type=UtcDateTime)
    end_time: datetime | None = Field(sa_type=UtcDateTime)


class AttemptRow(Row, table=True):
    """A lease, and how it ended. `request_id` is that of the claim which got it."""

    __tablename__: ClassVar[Any] = "attempts"
    __table_args__ = (
        UniqueConstraint("request_id"),
        ForeignKeyConstraint(["job"], ["jobs.name"], ondelete="CASCADE"),
    )

    job: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    node: str
    request_id: str | None
    start_time: datetime = Field(sa_type=UtcDateTime)
    start_step: int | None = Field(sa_type=BigInteger)
    step: int = Field(sa_type=BigInteger)
    end_time: datetime | None = Field(sa_type=UtcDateTime)
    outcome: str
    message: str
    mark: str


class CheckpointRow(Row, table=True):
    """A checkpoint that a later attempt can go on from; `validation_loss` NULL: not evaluated.
    `job_uid` is that of the job which stored it."""

    __tablename__: ClassVar[Any] = "checkpoints"
    __table_args__ = (ForeignKeyConstraint(["job"], ["jobs.name"], ondelete="CASCADE"),)

    job: str = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    step: int = Field(primary_key=True)
    manifest_digest: str
    size_bytes: int = Field(sa_type=BigInteger)
    validation_loss: float | None
    job_uid: str = Field(index=True)


class ReleaseRow(Row, table=True):
    """An owner of blobs that nobody needs any more from `due_time` on; gone when they are, or if
    there is an `again_time`, once they were removed then too."""

    __tablename__: ClassVar[Any] = "releases"

    owner: str = Field(primary_key=True)
    due_time: datetime = Field(sa_type=UtcDateTime, index=True)
    again_time: datetime | None = Field(sa_type=UtcDateTime)


class ProjectRow(Row, table=True):
    """What a project may take of the queue (0: no limit), and what it has taken: device-seconds.
    `pass_s` is its place in stride scheduling, `day` the one whose use `used_today_s` counts."""

    __tablename__: ClassVar[Any] = "projects"

    project: str = Field(primary_key=True)
    weight: float
    max_running_jobs: int
    max_queued_jobs: int
    max_device_hours_a_day: float
    pass_s: float
    used_s: float
    used_today_s: float
    day: str


class QueueRow(Row, table=True):
    """The one row that says how far the queue has come, in the device-seconds of `pass_s`."""

    __tablename__: ClassVar[Any] = "queue"

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    virtual_time_s: float


class NodeRow(Row, table=True):
    """What a node said when it last asked for work."""

    __tablename__: ClassVar[Any] = "nodes"
    __table_args__ = (Index(None, "update_time"),)  # those that are there

    name: str = Field(primary_key=True)
    device: str | None
    backends: str
    labels: str
    free_devices: int
    capabilities: str | None
    schedule: str
    update_time: datetime = Field(sa_type=UtcDateTime)


class ResidualRow(Row, table=True):
    """What a job that succeeded took, divided by its estimate; NULL: not known."""

    __tablename__: ClassVar[Any] = "residuals"
    __table_args__ = (
        ForeignKeyConstraint(["job"], ["jobs.name"], ondelete="CASCADE"),
        Index(None, "method", "device_model", "time"),  # the last runs
    )

    job: str = Field(primary_key=True)
    method: str
    device_model: str
    peak_ratio: float | None
    duration_ratio: float | None
    time: datetime = Field(sa_type=UtcDateTime)


class EventRow(Row, table=True):
    """An event of a job's history. `number` is the node's within the attempt; NULL for changes of
    state, which no node tells. `step` is that of an optimizer step, NULL for all other events and
    for those of version 0.1.0. `payload` is a TuningJobEvent without its sequence."""

    __tablename__: ClassVar[Any] = "job_events"
    __table_args__ = (
        UniqueConstraint("job", "attempt", "number"),
        ForeignKeyConstraint(["job"], ["jobs.name"], ondelete="CASCADE"),
        Index(None, "job", "step"),  # the same step in several attempts
    )

    job: str = Field(primary_key=True)
    sequence: int = Field(primary_key=True, sa_type=BigInteger)
    attempt: int
    number: int | None = Field(sa_type=BigInteger)
    step: int | None
    time: datetime = Field(sa_type=UtcDateTime)
    payload: bytes = Field(sa_type=LargeBinary)
