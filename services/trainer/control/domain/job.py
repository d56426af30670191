"""A tuning job, and every way in which it changes.

All changes are pure: they take the present job and the database's time and give the next job.
A change of state goes through `advance`, which holds to the table in `states`.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.common.etags import etag
from services.common.ids import content_id
from services.trainer.control.domain.endings import (
    NOT_COUNTED,
    NOT_RETRIED,
    Cause,
    Ending,
    Failure,
    Result,
)
from services.trainer.control.domain.errors import (
    AlreadyRetried,
    BaseModelMismatch,
    StaleAttempt,
    TrialOfSweep,
    WrongState,
)
from services.trainer.control.domain.estimation.sizes import Sizes
from services.trainer.control.domain.names import (
    BaseModelName,
    DatasetVersionName,
    ModelName,
    ModelVersionName,
    TuningJobName,
    TuningSweepName,
)
from services.trainer.control.domain.progress import Progress, Report
from services.trainer.control.domain.resumes import Resumes
from services.trainer.control.domain.settings import JobSettings
from services.trainer.control.domain.states import FINAL, HELD, MOVES, Directive, State

_LONGEST_RETRY_DELAY = timedelta(seconds=60)

FAILED_KEEPS = timedelta(days=7)
"""How long a FAILED job has its checkpoints, in case that it is retried."""
STRAGGLING = timedelta(days=1)
"""For how long a node that can not hear of a job's end may go on, up to its next checkpoint."""
_REMOVED_SOON = timedelta(hours=1)


@dataclass(frozen=True)
class ManifestSource:
    """A base model whose files are blobs, listed by the manifest blob of this digest."""

    digest: str


@dataclass(frozen=True)
class HubSource:
    """A repository of a model hub (`owner/name`) at a commit of 40 hexadecimal digits."""

    repository: str
    revision: str


BaseModelSource = ManifestSource | HubSource


@dataclass(frozen=True)
class Start:
    """The version whose parameters a training goes on from, and the digest of its manifest."""

    version: ModelVersionName
    manifest_digest: str


@dataclass(frozen=True)
class JobSpec:
    """What is to be trained, resolved when the job is created: nothing in it changes after.
    Without a `start` the parameters of the method are fresh ones; without `sizes` nothing can be
    estimated: the registry does not know how the base model is built."""

    base_model: BaseModelName
    base_model_digest: str
    base_model_source: BaseModelSource
    dataset_version: DatasetVersionName
    dataset_digest: str
    model: ModelName
    settings: JobSettings
    start: Start | None = None
    sizes: Sizes | None = None

    def version_of(self, result: Result) -> str:
        """The name of the model version that the result becomes."""
        return self.model.version(content_id(result.manifest_digest))


@dataclass(frozen=True)
class TuningJob:
    """A job as it stands.

    `attempt` counts claims and fences the writes of nodes; `failures` counts the attempts that
    `max_attempts` limits. `event_count` is the length of the history, and so the sequence of its
    last event; `attempt_event_count` is how many of them the node told in the current attempt.
    `sweep` is the one that the job is a trial of. `claim_time` is when the current attempt began,
    `charged_s` what its project was charged for it: device-seconds. A job that `yields` is to make
    room on its node. `retry_of` and `retried_as` are the jobs before and after it, `origins` the
    uids of all before it, whose checkpoints may have become its own.
    """

    name: TuningJobName
    uid: str
    spec: JobSpec
    create_time: datetime
    update_time: datetime
    ready_time: datetime
    sweep: TuningSweepName | None = None
    state: State = State.QUEUED
    attempt: int = 0
    failures: int = 0
    event_count: int = 0
    attempt_event_count: int = 0
    progress: Progress = field(default_factory=Progress)
    failure: Failure | None = None
    resumes: Resumes = ()
    model_version: str = ""
    node: str = ""
    lease_expire_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    claim_time: datetime | None = None
    charged_s: float = 0.0
    yields: bool = False
    retry_of: TuningJobName | None = None
    retried_as: TuningJobName | None = None
    origins: tuple[str, ...] = ()

    @property
    def etag(self) -> str:
        """Changes with every change of state: within an attempt only a job that is paused in the
        queue comes to a state twice, and it is ready later then."""
        return etag(self.uid, self.state, self.attempt, self.ready_time.isoformat())

    @property
    def error(self) -> Failure | None:
        """Why it FAILED, or why it waits again."""
        return self.failure if self.state in (State.FAILED, State.QUEUED, State.PAUSED) else None

    @property
    def owners(self) -> tuple[str, ...]:
        """The uids of the jobs that stored its checkpoints."""
        return (self.uid, *self.origins)

    def directive(self, now: datetime) -> Directive:
        """What its node is to do."""
        match self.state:
            case State.CANCELLING:
                return Directive.CANCEL
            case State.PAUSING:
                return Directive.PAUSE
            case _:
                return self._directive_of_training(now)

    def _directive_of_training(self, now: datetime) -> Directive:
        deadline = self.spec.settings.deadline_time
        if deadline is not None and deadline <= now:
            return Directive.FINISH
        return Directive.YIELD if self.yields else Directive.TRAIN

    def require_attempt(self, attempt: int) -> None:
        """Raises StaleAttempt unless `attempt` holds the lease."""
        if self.state not in HELD or attempt != self.attempt:
            raise StaleAttempt(self.name, attempt, self.attempt, self.state)

    def awaits_events(self, attempt: int, event_count: int) -> bool:
        """Whether the attempt goes on and the history lacks some of the events it published."""
        current = self.state in HELD and attempt == self.attempt
        return current and self.attempt_event_count < event_count

    def heard(self, attempt: int, report: Report, now: datetime) -> "TuningJob":
        """The history has one more event of an attempt. What an earlier attempt tells changes no
        figure."""
        if attempt != self.attempt:
            return replace(self, event_count=self.event_count + 1)
        current = self.state in HELD
        return replace(
            self,
            event_count=self.event_count + 1,
            attempt_event_count=self.attempt_event_count + 1,
            progress=self.progress.after(report) if current else self.progress,
            update_time=now if current else self.update_time,
        )

    @property
    def device_count(self) -> int:
        """How many devices train it together."""
        return self.spec.settings.requirements.device_count

    def charged(self, device_s: float) -> "TuningJob":
        """Its project has been charged so much more for the attempt."""
        return replace(self, charged_s=self.charged_s + device_s)

    def kept(self, expire_time: datetime) -> "TuningJob":
        """The node is alive."""
        return replace(self, lease_expire_time=expire_time)

    def cancelled(self, now: datetime) -> "TuningJob":
        """At once when it waits, else as soon as its node has stopped. Raises WrongState."""
        match self.state:
            case State.CANCELLING | State.CANCELLED:
                return self
            case State.RUNNING | State.PAUSING:
                return advance(self, State.CANCELLING, now)
            case State.QUEUED | State.PAUSED | State.SUCCEEDED | State.FAILED:
                return advance(self, State.CANCELLED, now)

    def paused(self, now: datetime) -> "TuningJob":
        """At once when it waits, else as soon as its node has stopped. Raises WrongState."""
        match self.state:
            case State.PAUSING | State.PAUSED:
                return self
            case State.RUNNING:
                return advance(self, State.PAUSING, now)
            case State.QUEUED | State.CANCELLING | State.SUCCEEDED | State.FAILED | State.CANCELLED:
                return advance(self, State.PAUSED, now)

    def resumed(self, now: datetime) -> "TuningJob":
        """Raises WrongState."""
        if self.state in (State.QUEUED, State.RUNNING):
            return self
        return replace(advance(self, State.QUEUED, now), ready_time=now)

    def retried(
        self, name: TuningJobName, uid: str, deadline_time: datetime | None, now: datetime
    ) -> "TuningJob":
        """The job that does it again. Its attempts go on counting, so that its checkpoints follow
        those that it takes over. Raises WrongState, AlreadyRetried and TrialOfSweep."""
        if self.state is not State.FAILED:
            raise WrongState(self.name, self.state, State.QUEUED)
        if self.retried_as is not None:
            raise AlreadyRetried(self.name, self.retried_as)
        if self.sweep is not None:
            raise TrialOfSweep(self.name, self.sweep)
        settings = self.spec.settings.model_copy(update={"deadline_time": deadline_time})
        return TuningJob(
            name=name,
            uid=uid,
            spec=replace(self.spec, settings=settings),
            create_time=now,
            update_time=now,
            ready_time=now,
            attempt=self.attempt,
            event_count=1,  # the first is its way into the queue
            retry_of=self.name,
            origins=self.owners if self.keeps_checkpoints(now) else (),
        )

    def keeps_checkpoints(self, now: datetime) -> bool:
        """Whether those of a job that has FAILED are still there, and will be for a while."""
        return self.end_time is not None and now < self.end_time + FAILED_KEEPS - _REMOVED_SOON

    def overdue(self, now: datetime, has_checkpoints: bool) -> "TuningJob":
        """The deadline of a job that waits has passed: with checkpoints a node is to make a result
        of the best, without any it has none."""
        if has_checkpoints:
            return self.resumed(now)
        return advance(replace(self, failure=Failure(Cause.DEADLINE)), State.FAILED, now)

    def ended(self, ending: Ending, now: datetime, retry_delay: timedelta) -> "TuningJob":
        """The current attempt has ended. Raises BaseModelMismatch."""
        if isinstance(ending, Result):
            _require_same_base_model(ending, self.spec)
        if self.state is State.CANCELLING:
            return advance(self, State.CANCELLED, now)
        if isinstance(ending, Result):
            return self._succeeded(ending, now)
        return self._failed(ending, now, retry_delay)

    def registered(self, result: Result) -> "TuningJob":
        """The result of this trial, which won its sweep, becomes a model version."""
        return replace(self, model_version=self.spec.version_of(result))

    def _as_asked(self, failure: Failure) -> Failure:
        """A node of an earlier version knows of no other wish than to cancel."""
        if failure.cause is not Cause.CANCELLED:
            return failure
        if self.state is State.PAUSING:
            return replace(failure, cause=Cause.PAUSED)
        return replace(failure, cause=Cause.PREEMPTED) if self.yields else failure

    def _succeeded(self, result: Result, now: datetime) -> "TuningJob":
        """Of a trial nothing is registered unless its sweep says so."""
        version = "" if self.sweep else self.spec.version_of(result)
        done = advance(self, State.SUCCEEDED, now)
        return replace(done, model_version=version, progress=self.progress.stored())

    def _failed(self, failure: Failure, now: datetime, retry_delay: timedelta) -> "TuningJob":
        failure = self._as_asked(failure)
        failures = self.failures + (failure.cause not in NOT_COUNTED)
        job = replace(self, failure=failure, failures=failures)
        if failure.cause in NOT_RETRIED or failures >= self.spec.settings.max_attempts:
            return advance(job, State.FAILED, now)
        if self.state is State.PAUSING:
            return advance(job, State.PAUSED, now)
        delay = _retry_delay(failure, failures, retry_delay)
        return replace(advance(job, State.QUEUED, now), ready_time=now + delay)


def advance(job: TuningJob, to: State, now: datetime) -> TuningJob:
    """The one way to another state; the history gets an event of it. Raises WrongState."""
    if to not in MOVES[job.state]:
        raise WrongState(job.name, job.state, to)
    return replace(
        job,
        state=to,
        event_count=job.event_count + 1,
        update_time=now,
        end_time=now if to in FINAL else None,
        lease_expire_time=job.lease_expire_time if to in HELD else None,
        yields=job.yields and to in HELD,
    )


def _retry_delay(failure: Failure, failures: int, first: timedelta) -> timedelta:
    """A job that fails by itself waits longer each time, so that others get their turn."""
    if failure.cause in NOT_COUNTED or failure.cause is Cause.LEASE_EXPIRED:
        return timedelta()
    return min(first * 2 ** (failures - 1), _LONGEST_RETRY_DELAY)


def _require_same_base_model(result: Result, spec: JobSpec) -> None:
    if result.base_model_digest not in ("", spec.base_model_digest):
        raise BaseModelMismatch(result.base_model_digest, spec.base_model_digest)
