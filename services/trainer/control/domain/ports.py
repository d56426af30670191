"""What the trainer's control plane needs from outside, as small as it can say it."""

from collections.abc import Collection, Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from services.common.filters import Filter
from services.common.request_ids import RequestKey
from services.trainer.control.domain.attempts import Attempt
from services.trainer.control.domain.checkpoints import Checkpoint, Checkpoints
from services.trainer.control.domain.endings import Result
from services.trainer.control.domain.estimation.architecture import Architecture
from services.trainer.control.domain.estimation.residuals import Residual
from services.trainer.control.domain.job import BaseModelSource, TuningJob
from services.trainer.control.domain.names import (
    BaseModelName,
    DatasetVersionName,
    ModelAliasName,
    ModelVersionName,
    TuningJobName,
    TuningSweepName,
)
from services.trainer.control.domain.nodes import Node, Offer, Schedule
from services.trainer.control.domain.progress import Telemetry
from services.trainer.control.domain.queue.forecast import Outlook
from services.trainer.control.domain.queue.lines import Line
from services.trainer.control.domain.queue.shares import Share, Waiting
from services.trainer.control.domain.resumes import StepLoss
from services.trainer.control.domain.states import State
from services.trainer.control.domain.sweeps.sweep import Sweep


@dataclass(frozen=True)
class DatasetVersion:
    """A stored dataset version; `name` never ends in `latest`, `digest` is its Parquet blob, of
    `size_bytes` (0: not told). Its examples are conversations, plain texts, or preferences."""

    name: DatasetVersionName
    digest: str
    example_count: int
    size_bytes: int = 0
    are_texts: bool = False
    are_preferences: bool = False


class DatasetCatalog(Protocol):
    async def resolve(self, name: DatasetVersionName) -> DatasetVersion | None:
        """The version, also by the name `…/versions/latest`. Raises Unavailable."""
        ...


@dataclass(frozen=True)
class BaseModel:
    """A model to start from. `size_bytes` is that of its files, 0 for a hub's; `architecture` is
    None where the registry can not tell it."""

    name: BaseModelName
    digest: str
    source: BaseModelSource
    size_bytes: int = 0
    architecture: Architecture | None = None


class BaseModelCatalog(Protocol):
    async def find(self, name: BaseModelName) -> BaseModel | None:
        """The model, if it is on the operator's list. Raises Unavailable."""
        ...


@dataclass(frozen=True)
class ModelVersion:
    """A version of the registry's, with what it was made on and how. `hyperparameters` hold the
    settings of `method`, under the names and with the words that they have here, and others."""

    name: ModelVersionName
    manifest_digest: str
    base_model: str
    base_model_digest: str
    method: str
    hyperparameters: Mapping[str, object]


class ModelVersionCatalog(Protocol):
    async def resolve(self, name: ModelVersionName | ModelAliasName) -> ModelVersion | None:
        """The version, also by the name `…/versions/latest` or an alias's. Raises Unavailable."""
        ...


class Offers(Protocol):
    async def there(self) -> Sequence[Offer]:
        """What the nodes have that are there. Raises Unavailable."""
        ...


@dataclass(frozen=True)
class StateChange:
    """A job has moved `before` → `after.state`; None: it is new. `cause` is for a person."""

    before: State | None
    after: TuningJob
    cause: str = ""


@dataclass(frozen=True)
class HistoryEntry:
    """The place of an event in a job's history, and the event as it is kept."""

    sequence: int
    payload: bytes


Place = tuple[int, int]
"""An attempt, and the number that its node gave to an event."""


@dataclass(frozen=True)
class JobQuery:
    """Jobs of a project, newest first, those behind the job of this `create_time` and name."""

    project: str
    filter: Filter | None
    after: tuple[datetime, str] | None
    limit: int


class Jobs(Protocol):
    async def add(self, job: TuningJob) -> None:
        """Raises TuningJobExists."""
        ...

    async def find(self, name: TuningJobName) -> TuningJob | None: ...

    async def find_all(
        self, names: Sequence[TuningJobName]
    ) -> Mapping[TuningJobName, TuningJob]: ...

    async def hold(self, name: TuningJobName) -> TuningJob | None:
        """As `find`; nobody else changes the job until this transaction has ended."""
        ...

    async def replace(self, before: TuningJob, after: TuningJob) -> None:
        """Writes `after` if the job still has the state, attempt and history of `before`, else
        raises Aborted."""
        ...

    async def expired(self, now: datetime) -> Sequence[TuningJobName]:
        """The jobs whose lease is over, and that nobody has taken back yet."""
        ...

    async def overdue(self, now: datetime, limit: int) -> Sequence[TuningJobName]:
        """Jobs whose deadline has passed and that wait for what will not come: those that are
        PAUSED, and the QUEUED ones without a checkpoint."""
        ...

    async def newest(self, query: JobQuery) -> Sequence[TuningJob]: ...

    async def event_counts(self, names: Sequence[TuningJobName]) -> Mapping[TuningJobName, int]:
        """How long the histories of these jobs are."""
        ...


@dataclass(frozen=True)
class SweepQuery:
    """Sweeps of a project, newest first, those behind the one of this `create_time` and name."""

    project: str
    after: tuple[datetime, str] | None
    limit: int


class Sweeps(Protocol):
    async def add(self, sweep: Sweep) -> None:
        """Raises TuningSweepExists."""
        ...

    async def find(self, name: TuningSweepName) -> Sweep | None: ...

    async def hold(self, name: TuningSweepName) -> Sweep | None:
        """As `find`; nobody else changes the sweep until this transaction has ended. Held before
        the jobs of its trials, never after."""
        ...

    async def replace(self, after: Sweep) -> None:
        """Writes a sweep that this transaction holds."""
        ...

    async def newest(self, query: SweepQuery) -> Sequence[Sweep]: ...

    async def trial_states(self, names: Sequence[TuningSweepName]) -> Mapping[TuningJobName, State]:
        """Where the jobs of these sweeps' trials stand."""
        ...


class Queue(Protocol):
    """The waiting jobs by lines, and what projects may take and have taken."""

    async def waiting(self, now: datetime) -> Sequence[Waiting]:
        """The lines with a job that is ready."""
        ...

    async def standings(self) -> tuple[Mapping[str, Share], Mapping[str, int]]:
        """Of the projects with jobs that wait or that nodes hold: their shares, and how many of
        their jobs nodes hold."""
        ...

    async def running_jobs(self) -> Mapping[str, int]:
        """How many jobs nodes hold, by project."""
        ...

    async def queued_jobs(self, project: str, limit: int) -> int:
        """How many wait, counted up to the limit."""
        ...

    async def has_line(self, line: Line) -> bool:
        """Whether a job waits in it."""
        ...

    async def line_count(self, project: str) -> int:
        """In how many lines its jobs wait."""
        ...

    async def is_active(self, project: str) -> bool:
        """Whether a job of it waits or is held by a node."""
        ...

    async def shares(self, projects: Collection[str]) -> Mapping[str, Share]:
        """Of those projects that were ever held."""
        ...

    async def claim_alone(self) -> None:
        """Waits for the end of other transactions that did so."""
        ...

    async def hold(self, project: str) -> Share:
        """Its share; nobody else changes it until this transaction has ended. Held after a job, and
        one at a time, so that no two wait in a circle."""
        ...

    async def put(self, share: Share) -> None:
        """Writes a share that this transaction holds."""
        ...

    async def served_s(self) -> float:
        """The virtual time that the queue has come to: see `Demand.virtual_time_s`."""
        ...

    async def serve(self, virtual_time_s: float) -> None:
        """The queue has come so far, if it had not come further. After `claim_alone`."""
        ...

    async def take(
        self, line: Line, node: str, now: datetime, lease: timedelta, charged_s: float
    ) -> TuningJob | None:
        """Gives `node` the first job of the line that is ready and that nobody holds, RUNNING under
        its next attempt, for which its project is charged so much."""
        ...

    async def running(self) -> Sequence[TuningJob]:
        """The jobs that nodes hold."""
        ...

    async def unlined(self, limit: int) -> Sequence[TuningJobName]:
        """Jobs that wait and stand in no line."""
        ...

    async def line_up(self, job: TuningJob) -> None:
        """Puts a job that this transaction holds into its line."""
        ...

    async def ahead(self, line: Line, job: TuningJob) -> int:
        """How many of its line come before the job."""
        ...

    async def outlook(self, now: datetime, offers: Sequence[Offer]) -> Outlook:
        """What a forecast is made of, if these are the nodes."""
        ...


class Attempts(Protocol):
    async def add(self, attempt: Attempt) -> bool:
        """False, and nothing is added, if its request_id belongs to another attempt."""
        ...

    async def find(self, job: TuningJobName, number: int) -> Attempt | None: ...

    async def of(self, job: TuningJob) -> Attempt:
        """The last attempt of a job that was claimed."""
        ...

    async def claimed_under(self, request_id: str) -> Attempt | None: ...

    async def release(self, request_id: str) -> None:
        """The id belongs to no attempt any more."""
        ...

    async def all_of(self, job: TuningJobName) -> Sequence[Attempt]:
        """In their order."""
        ...

    async def tell_start(self, job: TuningJobName, number: int, step: int) -> None:
        """It began after this step."""
        ...

    async def tell_step(self, job: TuningJobName, number: int, step: int) -> None:
        """It has done this step, if it had not come further."""
        ...

    async def end(self, attempt: Attempt) -> None: ...


class JobCheckpoints(Protocol):
    """Those that a later attempt can go on from, and the owners whose blobs nobody needs any more
    (see `checkpoint_owners`)."""

    async def of(self, job: TuningJobName) -> Checkpoints: ...

    async def add(self, job: TuningJobName, checkpoint: Checkpoint) -> None: ...

    async def release(self, job: TuningJob, checkpoints: Collection[Checkpoint]) -> None:
        """They are the job's no more."""
        ...

    async def release_all(self, job: TuningJob, again: datetime) -> None:
        """Those of a job that has ended, and what its attempts stored and never told; at `again`
        also what they have stored since."""
        ...

    async def release_later(self, job: TuningJob, due: datetime) -> None:
        """As `release_all`, but they stay until then, in case that somebody takes them over."""
        ...

    async def take_over(self, old: TuningJob, new: TuningJob) -> None:
        """Those of `old`, which were to be released later, are those of `new`."""
        ...

    async def released(self, now: datetime, limit: int) -> Sequence[str]:
        """Owners whose blobs are to be removed by now."""
        ...

    async def forget(self, owner: str) -> None:
        """Its blobs are removed; it is heard of again if they are to be once more."""
        ...


class CheckpointBlobs(Protocol):
    async def remove_owned(self, owner: str) -> None:
        """Removes again what is gone, or half gone. Raises Unavailable."""
        ...


class Nodes(Protocol):
    async def find(self, name: str) -> Offer | None: ...

    async def put(self, offer: Offer) -> None:
        """In the place of what the node said before."""
        ...

    async def there(self, since: datetime) -> Sequence[Offer]:
        """Of the nodes that asked for work since then, or that hold a lease, and that get jobs."""
        ...

    async def named(self, names: Collection[str]) -> Mapping[str, Offer]:
        """Of these nodes those that get jobs."""
        ...

    async def schedule(self, name: str) -> Schedule:
        """OPEN of one that is not known."""
        ...

    async def hold(self, name: str) -> tuple[Offer | None, Schedule]:
        """As `find` and `schedule`; nobody else changes them until this transaction has ended."""
        ...

    async def set_schedule(self, name: str, schedule: Schedule) -> None: ...

    async def node(self, name: str, since: datetime) -> Node | None: ...

    async def forget(self, before: datetime) -> Sequence[str]:
        """Removes those that have not asked for work since then, and have held no lease since.
        Returns their names."""
        ...

    async def listed(self, after: str, limit: int, since: datetime) -> Sequence[Node]:
        """Those behind `after`, by name. One is there that asked for work since then."""
        ...


class Residuals(Protocol):
    async def add(self, residual: Residual) -> None: ...

    async def last(self, method: str, device_model: str, limit: int) -> Sequence[Residual]:
        """Of each ratio the `limit` newest that are to be believed; the newest first."""
        ...


class History(Protocol):
    async def add_change(self, change: StateChange) -> None:
        """The last event of `change.after`."""
        ...

    async def known(self, job: TuningJobName, places: Sequence[Place]) -> Set[Place]:
        """Which of these the history holds already."""
        ...

    async def losses(self, job: TuningJobName, steps: Collection[int]) -> Sequence[StepLoss]:
        """What all attempts told of these steps."""
        ...

    async def add_telemetry(self, told: Sequence[Telemetry], sequence: int) -> None:
        """Events of one job, which come one after the other from `sequence` on."""
        ...

    async def after(
        self, job: TuningJobName, sequence: int, limit: int
    ) -> Sequence[HistoryEntry]: ...


class News(Protocol):
    """What other services hear once the transaction has committed."""

    async def job_changed(self, change: StateChange) -> None: ...

    async def job_succeeded(self, job: TuningJob, result: Result) -> None: ...


class Requests(Protocol):
    """The calls that are to be carried out once; those without an id always are."""

    async def find(self, key: RequestKey, fingerprint: str) -> str | None:
        """The name of the job that an earlier call made. Raises InvalidArgument if the id is no
        UUID4 or came with another body."""
        ...

    async def reserve(self, key: RequestKey, fingerprint: str) -> str | None:
        """As `find`; None means: go on, and `settle` in this transaction. A concurrent twin waits
        for it."""
        ...

    async def settle(self, key: RequestKey, resource: str) -> None: ...


class Unit(Protocol):
    """One transaction over all tables."""

    @property
    def jobs(self) -> Jobs: ...
    @property
    def queue(self) -> Queue: ...
    @property
    def sweeps(self) -> Sweeps: ...
    @property
    def attempts(self) -> Attempts: ...
    @property
    def checkpoints(self) -> JobCheckpoints: ...
    @property
    def history(self) -> History: ...
    @property
    def news(self) -> News: ...
    @property
    def nodes(self) -> Nodes: ...
    @property
    def residuals(self) -> Residuals: ...
    @property
    def requests(self) -> Requests: ...

    async def now(self) -> datetime:
        """The database's clock, the only one that counts."""
        ...

    def announce(self, job: TuningJob) -> None:
        """Wakes, once this transaction has committed, who follows the job or waits for work."""
        ...


class Store(Protocol):
    def reading(self) -> AbstractAsyncContextManager[Unit]: ...

    def writing(self) -> AbstractAsyncContextManager[Unit]: ...
