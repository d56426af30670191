"""From values of the domain to messages of the wire: pure."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar, assert_never

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2

from anneal.enums import number_of
from anneal.registry.v1 import base_model_pb2
from anneal.trainer.v1 import node_lease_service_pb2 as lease_pb
from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from services.common.errors import DOMAIN
from services.trainer.control.domain.attempts import Told
from services.trainer.control.domain.checkpoints import Checkpoint, told_of
from services.trainer.control.domain.endings import Cause, Failure, Result
from services.trainer.control.domain.job import (
    BaseModelSource,
    HubSource,
    JobSpec,
    ManifestSource,
    TuningJob,
)
from services.trainer.control.domain.methods import Method
from services.trainer.control.domain.node_leases import Kept, Lease
from services.trainer.control.domain.ports import HistoryEntry, StateChange
from services.trainer.control.domain.progress import Progress
from services.trainer.control.domain.queue.forecast import QueuePlace
from services.trainer.control.domain.states import Directive, State

M = TypeVar("M", bound=Message)

_CODES: Mapping[Cause, code_pb2.Code] = {
    Cause.ENGINE_ERROR: code_pb2.INTERNAL,
    Cause.ENGINE_KILLED: code_pb2.ABORTED,
    Cause.OUT_OF_MEMORY: code_pb2.RESOURCE_EXHAUSTED,
    Cause.INVALID_JOB: code_pb2.FAILED_PRECONDITION,
    Cause.DIVERGED: code_pb2.FAILED_PRECONDITION,
    Cause.STORAGE: code_pb2.UNAVAILABLE,
    Cause.NODE_STOPPING: code_pb2.UNAVAILABLE,
    Cause.CANCELLED: code_pb2.CANCELLED,
    Cause.LEASE_EXPIRED: code_pb2.DEADLINE_EXCEEDED,
    Cause.NO_PROGRESS: code_pb2.DEADLINE_EXCEEDED,
    Cause.PAUSED: code_pb2.CANCELLED,
    Cause.PREEMPTED: code_pb2.UNAVAILABLE,
    Cause.DEADLINE: code_pb2.DEADLINE_EXCEEDED,
}
_STOPPING = (Directive.CANCEL, Directive.PAUSE, Directive.YIELD)
_METHODS: Mapping[str, type[Message]] = {
    "full": job_pb.FullMethod,
    "lora": job_pb.LoraMethod,
    "qlora": job_pb.QloraMethod,
    "prefix": job_pb.PrefixMethod,
    "adapter": job_pb.AdapterMethod,
}


def tuning_job(job: TuningJob) -> job_pb.TuningJob:
    return job_pb.TuningJob(
        **specified(job.spec),
        name=str(job.name),
        uid=job.uid,
        state=state(job.state),
        tuning_sweep=str(job.sweep) if job.sweep else "",
        attempt=job.attempt,
        progress=_progress(job.progress),
        error=_error(job.error) if job.error else None,
        model_version=job.model_version,
        node=job.node,
        create_time=timestamp(job.create_time),
        update_time=timestamp(job.update_time),
        start_time=timestamp(job.start_time),
        end_time=timestamp(job.end_time),
        etag=job.etag,
        resume_certificates=[job_pb.ResumeCertificate(**asdict(one)) for one in job.resumes],
        retry_of=str(job.retry_of or ""),
        retried_as=str(job.retried_as or ""),
    )


def placed(job: TuningJob, place: QueuePlace | None) -> job_pb.TuningJob:
    """With its place in the queue."""
    message = tuning_job(job)
    if place is not None:
        told = job_pb.QueuePlace(
            position=place.position,
            earliest_start_time=timestamp(place.earliest),
            latest_start_time=timestamp(place.latest),
        )
        message.queue_place.CopyFrom(told)
    return message


def specified(spec: JobSpec) -> dict[str, Any]:
    """The fields of a TuningJob that are resolved when it is created."""
    settings = spec.settings
    return {
        "base_model": str(spec.base_model),
        "dataset_version": str(spec.dataset_version),
        "model": str(spec.model),
        "start_version": str(spec.start.version) if spec.start else "",
        **_method(settings.method),
        "training": _message(job_pb.TrainingParameters, settings.training.model_dump()),
        "seed": settings.seed,
        "backend": number_of(job_pb.Backend.DESCRIPTOR, settings.backend),
        "max_attempts": settings.max_attempts,
        "labels": settings.labels,
        "priority": number_of(job_pb.Priority.DESCRIPTOR, settings.priority),
        "requirements": job_pb.Requirements(**settings.requirements.model_dump()),
        "deadline_time": timestamp(settings.deadline_time),
    }


def state(state: State) -> job_pb.TuningJob.State.ValueType:
    return job_pb.TuningJob.State.Value(f"STATE_{state}")


def lease(claimed: Lease, length: timedelta) -> lease_pb.Lease:
    job, newest_first = claimed.job, reversed(told_of(claimed.checkpoints))
    return lease_pb.Lease(
        job=tuning_job(job),
        duration=_duration(length),
        dataset_digest=job.spec.dataset_digest,
        base_model=base_model_source(job.spec.base_model_source),
        start_manifest_digest=job.spec.start.manifest_digest if job.spec.start else "",
        checkpoints=[_checkpoint(one, job) for one in newest_first],
        directive=directive(claimed.directive),
        out_of_memory_attempts=claimed.out_of_memory,
    )


def _checkpoint(checkpoint: Checkpoint, job: TuningJob) -> job_pb.Checkpoint:
    is_own = checkpoint.job_uid == job.uid
    return job_pb.Checkpoint(**asdict(replace(checkpoint, job_uid="") if is_own else checkpoint))


def heartbeat_answer(kept: Kept) -> lease_pb.HeartbeatTuningJobResponse:
    return lease_pb.HeartbeatTuningJobResponse(
        lease_expire_time=timestamp(kept.job.lease_expire_time),
        cancel_requested=kept.directive in _STOPPING,
        directive=directive(kept.directive),
    )


def directive(directive: Directive) -> lease_pb.Directive.ValueType:
    if directive is Directive.TRAIN:
        return lease_pb.DIRECTIVE_UNSPECIFIED
    return lease_pb.Directive.Value(f"DIRECTIVE_{directive}")


def attempt(told: Told, now: datetime) -> job_pb.TuningJobAttempt:
    one = told.attempt
    return job_pb.TuningJobAttempt(
        name=f"{one.job}/attempts/{one.number}",
        attempt=one.number,
        node=one.node,
        start_time=timestamp(one.start_time),
        end_time=timestamp(one.end_time),
        outcome=_outcome(one.outcome),
        message=one.message,
        start_step=one.start_step,
        last_step=one.step,
        steps=one.steps,
        redone_steps=told.redone_steps,
        duration=_duration((one.end_time or now) - one.start_time),
    )


def _outcome(word: str) -> job_pb.TuningJobAttempt.Outcome.ValueType:
    """Empty while the attempt lasts."""
    return job_pb.TuningJobAttempt.Outcome.Value(f"OUTCOME_{word or 'UNSPECIFIED'}")


def event(entry: HistoryEntry) -> job_pb.TuningJobEvent:
    message = job_pb.TuningJobEvent.FromString(entry.payload)
    message.sequence = entry.sequence
    return message


def state_event(change: StateChange) -> job_pb.TuningJobEvent:
    """The last event of `change.after`, without its sequence."""
    return job_pb.TuningJobEvent(
        time=timestamp(change.after.update_time),
        attempt=change.after.attempt,
        state_change=job_pb.StateChange(
            **{"from": state(change.before)} if change.before else {},
            to=state(change.after.state),
            cause=change.cause,
        ),
    )


def succeeded(job: TuningJob, result: Result) -> job_pb.TuningJobSucceeded:
    return job_pb.TuningJobSucceeded(
        job=tuning_job(job),
        manifest_digest=result.manifest_digest,
        dataset_digest=job.spec.dataset_digest,
        base_model_digest=job.spec.base_model_digest,
        code_version=result.code_version,
        metrics=result.metrics,
    )


def base_model_source(source: BaseModelSource) -> base_model_pb2.BaseModelSource:
    match source:
        case ManifestSource():
            return base_model_pb2.BaseModelSource(manifest_digest=source.digest)
        case HubSource():
            hub = base_model_pb2.HubRevision(repository=source.repository, revision=source.revision)
            return base_model_pb2.BaseModelSource(hub=hub)
        case _:
            assert_never(source)


def _method(method: Method) -> dict[str, Any]:
    """The one field of the job's `method` that is set."""
    fields = method.model_dump(exclude={"kind"})
    return {method.kind: _message(_METHODS[method.kind], fields)}


def _message(kind: type[M], fields: Mapping[str, Any]) -> M:
    """`fields` has every field of the message, enums as words."""
    enums = {field.name: field.enum_type for field in kind.DESCRIPTOR.fields if field.enum_type}
    numbers = {name: number_of(enum, fields[name]) for name, enum in enums.items()}
    return kind(**{**fields, **numbers})


def _progress(progress: Progress) -> job_pb.JobProgress:
    eta = None if progress.eta_s is None else _duration(timedelta(seconds=progress.eta_s))
    return job_pb.JobProgress(
        step=progress.step,
        total_steps=progress.total_steps,
        epoch=progress.epoch,
        loss=progress.loss,
        best_loss=progress.best_loss,
        validation_loss=progress.validation_loss,
        percent=progress.percent,
        tokens_per_second=progress.tokens_per_second,
        eta=eta,
    )


def _error(failure: Failure) -> status_pb2.Status:
    status = status_pb2.Status(code=_CODES[failure.cause], message=failure.words)
    info = error_details_pb2.ErrorInfo(reason=failure.cause, domain=DOMAIN)
    status.details.add().Pack(info)
    return status


def timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def _duration(length: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(length)
    return message
