"""How an attempt ends, and what that means for its job."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum

MAX_MESSAGE_CHARACTERS = 8192


class Cause(StrEnum):
    """What ended an attempt that gave no result."""

    ENGINE_ERROR = "ENGINE_ERROR"
    ENGINE_KILLED = "ENGINE_KILLED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    INVALID_JOB = "INVALID_JOB"
    DIVERGED = "DIVERGED"
    STORAGE = "STORAGE"
    NODE_STOPPING = "NODE_STOPPING"
    CANCELLED = "CANCELLED"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    NO_PROGRESS = "NO_PROGRESS"
    PAUSED = "PAUSED"
    PREEMPTED = "PREEMPTED"
    DEADLINE = "DEADLINE"


WORDS: Mapping[Cause, str] = {
    Cause.ENGINE_ERROR: "the engine failed",
    Cause.ENGINE_KILLED: "the engine was killed",
    Cause.OUT_OF_MEMORY: "the engine ran out of memory",
    Cause.INVALID_JOB: "the job or its data can not be trained",
    Cause.DIVERGED: "the training diverged",
    Cause.STORAGE: "the node could not fetch or store a blob",
    Cause.NODE_STOPPING: "the node was told to stop",
    Cause.CANCELLED: "the engine was cancelled",
    Cause.LEASE_EXPIRED: "the node stopped responding",
    Cause.NO_PROGRESS: "the engine did no step for too long",
    Cause.PAUSED: "the engine was paused",
    Cause.PREEMPTED: "it made room on its node",
    Cause.DEADLINE: "its deadline passed before it was trained",
}

NOT_RETRIED = frozenset({Cause.INVALID_JOB, Cause.DIVERGED, Cause.DEADLINE})
"""Another attempt would end alike."""
NOT_COUNTED = frozenset({Cause.NODE_STOPPING, Cause.PAUSED, Cause.PREEMPTED})
"""The job is not to blame: it waits again with as many attempts left as before."""


@dataclass(frozen=True)
class Failure:
    """The end of an attempt without a result."""

    cause: Cause
    message: str = ""

    @property
    def words(self) -> str:
        """For a person: what happened, and what the node adds to it."""
        return f"{WORDS[self.cause]}: {self.message}" if self.message else WORDS[self.cause]


@dataclass(frozen=True)
class Result:
    """The end of an attempt that trained the model: digests are sha256 in hex."""

    manifest_digest: str
    base_model_digest: str = ""
    code_version: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


Ending = Result | Failure


def mark_of(ending: Ending) -> str:
    """The same for the same ending told twice, and different for any other."""
    told = json.dumps([type(ending).__name__, asdict(ending)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()
