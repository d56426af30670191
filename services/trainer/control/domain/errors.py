"""What the trainer refuses, and why."""

from typing import TypeVar

from services.common.faults import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Violation,
)
from services.trainer.control.domain.names import (
    BaseModelName,
    DatasetVersionName,
    ModelAliasName,
    ModelVersionName,
    NodeName,
    TuningJobName,
    TuningSweepName,
)
from services.trainer.control.domain.states import State

T = TypeVar("T")


class TuningJobNotFound(NotFound):
    def __init__(self, name: TuningJobName) -> None:
        super().__init__(name)
        self.reason = "TUNING_JOB_NOT_FOUND"


class TuningJobExists(AlreadyExists):
    def __init__(self, name: TuningJobName) -> None:
        super().__init__(name)
        self.reason = "TUNING_JOB_EXISTS"


class NodeNotFound(NotFound):
    def __init__(self, name: NodeName) -> None:
        super().__init__(name)
        self.reason = "NODE_NOT_FOUND"


class WrongState(FailedPrecondition):
    """The job or the sweep can not go there from where it stands."""

    def __init__(self, name: TuningJobName | TuningSweepName, state: str, to: str) -> None:
        super().__init__(
            "WRONG_STATE",
            f"{name} is {state} and can not become {to}",
            resource=name,
            state=state,
            to=to,
        )


class AlreadyRetried(FailedPrecondition):
    """Its checkpoints are another job's by now."""

    def __init__(self, name: TuningJobName, retried_as: TuningJobName) -> None:
        super().__init__(
            "ALREADY_RETRIED",
            f"{name} was retried as {retried_as}; retry that one",
            resource=name,
            retried_as=retried_as,
        )


class TrialOfSweep(FailedPrecondition):
    """The sweep has gone on without it."""

    def __init__(self, name: TuningJobName, sweep: TuningSweepName) -> None:
        super().__init__(
            "TRIAL_OF_SWEEP",
            f"{name} is a trial of {sweep}, which has gone on without it; create a new sweep",
            resource=name,
            tuning_sweep=sweep,
        )


class QueueQuotaReached(ResourceExhausted):
    """The project has as many jobs waiting as it may."""

    def __init__(self, project: str, limit: int) -> None:
        super().__init__(
            "QUEUE_QUOTA_REACHED",
            f"projects/{project} has {limit} jobs waiting, as many as its quota lets it; "
            "wait for one to begin, cancel one, or have the quota raised",
            resource=f"projects/{project}/quota",
            max_queued_jobs=limit,
        )


class QueueLinesReached(ResourceExhausted):
    """The project's waiting jobs ask for as many different things as they may."""

    def __init__(self, project: str, limit: int) -> None:
        super().__init__(
            "QUEUE_LINES_REACHED",
            f"the waiting jobs of projects/{project} differ in priority, backend, method and "
            f"requirements in {limit} ways, as many as may be; ask for the same as one that waits "
            "(tuning_job.requirements), or wait for some to begin",
            resource=f"projects/{project}",
            max_lines=limit,
        )


class StaleAttempt(Aborted):
    """The attempt has ended: its node stops, and writes no more."""

    def __init__(self, name: TuningJobName, attempt: int, current: int, state: State) -> None:
        super().__init__(
            "STALE_ATTEMPT",
            f"attempt {attempt} of {name} has ended; stop work on it",
            resource=name,
            attempt=attempt,
            current_attempt=current,
            state=state,
        )


class BaseModelMismatch(InvalidArgument):
    """The node trained on top of something else than its lease said."""

    def __init__(self, used: str, leased: str) -> None:
        description = f"the lease is for the base model {leased}, not for {used}"
        super().__init__([Violation("base_model_digest", description, "BASE_MODEL_MISMATCH")])


class ClaimIdReused(InvalidArgument):
    """A claim's request_id belongs to one node."""

    def __init__(self) -> None:
        description = "was used by another node; make a new UUID4"
        super().__init__([Violation("request_id", description, "REQUEST_ID_REUSED")])


def no_base_model(name: BaseModelName) -> Violation:
    return Violation(
        "tuning_job.base_model",
        f"{name} is not on the registry's list; see ListBaseModels",
        "BASE_MODEL_NOT_FOUND",
    )


def no_dataset_version(name: DatasetVersionName) -> Violation:
    return Violation(
        "tuning_job.dataset_version", f"{name} does not exist", "DATASET_VERSION_NOT_FOUND"
    )


def preferences_unlearnt() -> Violation:
    return Violation(
        "tuning_job.dataset_version",
        "it holds preferences, from which no method learns; take conversations or plain texts",
        "PREFERENCES_UNLEARNT",
    )


def no_start_version(name: ModelVersionName | ModelAliasName) -> Violation:
    return Violation(
        "tuning_job.start_version", f"{name} does not exist", "START_VERSION_NOT_FOUND"
    )


def existing(name: TuningJobName, job: T | None) -> T:
    """The job that was found. Raises TuningJobNotFound if none was."""
    if job is None:
        raise TuningJobNotFound(name)
    return job
