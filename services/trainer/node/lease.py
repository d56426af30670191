"""A node's view of its lease: what to train, and how to tell the service how it goes."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from services.common.faults import Aborted
from services.common.process import Fatal
from services.trainer.checkpoint_owners import owner_of_one


@dataclass(frozen=True)
class LocalBase:
    """A base model whose files are blobs, listed by a manifest."""

    manifest_digest: str

    @property
    def digest(self) -> str:
        return self.manifest_digest


@dataclass(frozen=True)
class HubBase:
    """A base model in a hub's repository at one revision."""

    repository: str
    revision: str
    digest: str


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint whose files and manifest are blobs that it owns. `validation_loss` is the
    held-out loss of its step, in nats a labeled token; None: it was not evaluated. `job_uid` is
    that of the job which stored it; empty: the lease's own."""

    attempt: int
    step: int
    manifest_digest: str
    size_bytes: int
    validation_loss: float | None = None
    job_uid: str = ""


class Directive(Enum):
    """What the service wants of the node."""

    TRAIN = auto()
    CANCEL = auto()
    PAUSE = auto()
    YIELD = auto()
    FINISH = auto()
    """Train no further step, and make a result of the best there is."""


@dataclass(frozen=True)
class Lease:
    """The right to train a job until `duration_s` after the last heartbeat.

    `method` and `training` are the engine's own fields, every default resolved. With
    `start_manifest_digest` the training goes on from the result that this manifest lists.
    `checkpoints` are what earlier attempts left, the newest first. `backend` is what trains: see
    `backends`. `directive` is what to do from the beginning. It is trained on `device_count`
    devices together. `out_of_memory_attempts` are those before that ended so.
    """

    job: str
    uid: str
    attempt: int
    duration_s: float
    dataset_digest: str
    base: LocalBase | HubBase
    seed: int
    method: dict[str, object]
    training: dict[str, object]
    start_manifest_digest: str = ""
    checkpoints: tuple[StoredCheckpoint, ...] = ()
    backend: str = "builtin"
    directive: Directive = Directive.TRAIN
    device_count: int = 1
    out_of_memory_attempts: tuple[int, ...] = ()

    def owner_of(self, attempt: int, step: int, job_uid: str = "") -> str:
        """Owns the blobs of a checkpoint."""
        return owner_of_one(job_uid or self.uid, attempt, step)

    def reliefs(self, checkpoint: StoredCheckpoint | None) -> int:
        """How often a training has run out of memory since it stood at the checkpoint, or at its
        beginning: an engine keeps in its checkpoints what earlier ones made it do."""
        first = checkpoint.attempt if checkpoint else 0
        return sum(attempt >= first for attempt in self.out_of_memory_attempts)


@dataclass(frozen=True)
class Beat:
    """A sign of life after `step`. `stored` is a checkpoint of this attempt, `refused` one of the
    lease's that is of no use."""

    step: int
    stored: StoredCheckpoint | None = None
    refused: StoredCheckpoint | None = None


@dataclass(frozen=True)
class Result:
    """What a finished attempt made; its manifest and files are blobs."""

    manifest_digest: str
    base_model_digest: str
    code_version: str
    metrics: dict[str, float] = field(default_factory=dict[str, float])


class Cause(Enum):
    """What ended an attempt without a result."""

    ENGINE_ERROR = auto()
    ENGINE_KILLED = auto()
    OUT_OF_MEMORY = auto()
    INVALID_JOB = auto()
    DIVERGED = auto()
    STORAGE = auto()
    NODE_STOPPING = auto()
    CANCELLED = auto()
    NO_PROGRESS = auto()
    PAUSED = auto()
    PREEMPTED = auto()
    DEADLINE = auto()


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended, for programs and in words."""

    cause: Cause
    message: str


class LeaseLost(Aborted):
    """The job is no longer this attempt's: whatever it still does must not count."""

    def __init__(self, job: str, attempt: int) -> None:
        super().__init__("STALE_ATTEMPT", f"attempt {attempt} of {job} has lost its lease", job=job)


class Refused(Fatal):
    """The service refuses what this node says: its key, its name or its version is at fault."""

    def __init__(self, answer: str) -> None:
        super().__init__(f"the trainer refuses this node: {answer}")


class Leases(Protocol):
    """The node's side of NodeLeaseService. Every call raises Unavailable when the service cannot
    be reached, and those that carry an attempt raise LeaseLost when it is stale."""

    async def claim(self, wait_s: float, free_devices: int) -> Lease | None: ...

    async def granted(self) -> Lease | None:
        """What the last claim got, if its answer was never heard. Takes no new lease."""
        ...

    async def heartbeat(self, lease: Lease, beat: Beat) -> Directive:
        """Keeps the lease."""
        ...

    async def complete(self, lease: Lease, result: Result, event_count: int) -> None: ...

    async def fail(self, lease: Lease, failure: Failure, event_count: int) -> None: ...
