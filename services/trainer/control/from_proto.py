"""From messages of the wire to values of the domain: pure, and nothing is judged here."""

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from anneal.enums import word_of
from anneal.registry.v1 import base_model_pb2
from anneal.trainer.v1 import node_lease_service_pb2 as lease_pb
from anneal.trainer.v1 import queue_service_pb2 as queue_pb
from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from services.common.faults import InvalidArgument
from services.common.request_ids import fingerprint
from services.trainer.control.domain.drafts import Draft
from services.trainer.control.domain.estimation.estimates import EstimateCall
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.node_calls import (
    ClaimCall,
    CompleteCall,
    FailCall,
    HeartbeatCall,
)
from services.trainer.control.domain.progress import (
    Evaluated,
    Remark,
    Report,
    Resumed,
    Started,
    Stepped,
    Telemetry,
)
from services.trainer.control.domain.queue.quotas import QuotaChange
from services.trainer.control.domain.queue.shares import Quota
from services.trainer.control.domain.recommendation.recommendations import RecommendCall
from services.trainer.control.domain.tuning_jobs import AttemptListing, Listing, NewJob, Retry

_LONGEST_ETA_S = 10 * 365 * 86_400.0
_TELEMETRY_SUBJECT = re.compile(r"anneal\.jobs\.([^.]+)\.([^.]+)\.events")


class Unreadable(Exception):
    """A message on the bus that is no event of a node."""


def new_job(request: service_pb.CreateTuningJobRequest) -> NewJob:
    return NewJob(
        parent=request.parent,
        job_id=request.tuning_job_id,
        draft=draft(request.tuning_job),
        request_id=request.request_id,
        fingerprint=fingerprint(request.SerializeToString(deterministic=True)),
        validate_only=request.validate_only,
    )


def draft(job: job_pb.TuningJob) -> Draft:
    return Draft(job.base_model, job.dataset_version, job.model, _settings(job), job.start_version)


def listing(request: service_pb.ListTuningJobsRequest) -> Listing:
    return Listing(request.parent, request.page_size, request.page_token, request.filter)


def retry(request: service_pb.RetryTuningJobRequest) -> Retry:
    return Retry(
        name=TuningJobName.parse(request.name),
        job_id=request.tuning_job_id,
        request_id=request.request_id,
        fingerprint=fingerprint(request.SerializeToString(deterministic=True)),
        deadline_time=_time(request.deadline_time, "deadline_time")
        if request.HasField("deadline_time")
        else None,
    )


def attempt_listing(request: service_pb.ListTuningJobAttemptsRequest) -> AttemptListing:
    return AttemptListing(request.parent, request.page_size, request.page_token)


def estimate(
    request: service_pb.EstimateTuningJobRequest | service_pb.RecommendMethodRequest,
) -> EstimateCall:
    given = architecture(request.architecture) if request.HasField("architecture") else None
    asked = ("mean_example_tokens", "price_per_hour")
    return EstimateCall(
        parent=request.parent,
        draft=draft(request.tuning_job),
        device=_fields(request.device) if request.HasField("device") else None,
        architecture=given,
        circumstances={name: getattr(request, name) for name in asked},
    )


def recommendation(request: service_pb.RecommendMethodRequest) -> RecommendCall:
    target = request.target or service_pb.RecommendMethodRequest.TARGET_LOCAL
    words = service_pb.RecommendMethodRequest.Target.DESCRIPTOR
    return RecommendCall(estimate(request), word_of(words, target))


def architecture(message: base_model_pb2.ModelArchitecture) -> dict[str, object]:
    layers = tuple(_fields(one) for one in message.linear_layers)
    return {**_fields(message), "linear_layers": layers}


def claim(request: lease_pb.ClaimTuningJobRequest) -> ClaimCall:
    wait_s = request.wait.seconds + request.wait.nanos / 1e9
    backends = (word_of(job_pb.Backend.DESCRIPTOR, number) for number in request.backends)
    return ClaimCall.model_validate(
        {
            "node": request.node,
            "wait": wait_s,
            "request_id": request.request_id or None,
            "device": _fields(request.device) if request.HasField("device") else None,
            "backends": tuple(backends),
            "labels": dict(request.labels),
            "free_devices": request.free_devices or 1,
            "capabilities": _fields(request.capabilities)
            if request.HasField("capabilities")
            else None,
            "stopping": request.stopping,
        }
    )


def heartbeat(request: lease_pb.HeartbeatTuningJobRequest) -> HeartbeatCall:
    return HeartbeatCall.model_validate(
        {
            "step": request.step,
            "checkpoint": _fields(request.checkpoint) if request.HasField("checkpoint") else None,
            "refused_checkpoints": tuple(_fields(one) for one in request.refused_checkpoints),
        }
    )


def completion(request: lease_pb.CompleteTuningJobRequest) -> CompleteCall:
    return CompleteCall(
        manifest_digest=request.manifest_digest,
        base_model_digest=request.base_model_digest or None,
        code_version=request.code_version,
        metrics=dict(request.metrics),
        event_count=request.event_count,
    )


def failure(request: lease_pb.FailTuningJobRequest) -> FailCall:
    cause = word_of(lease_pb.FailTuningJobRequest.Cause.DESCRIPTOR, request.cause)
    return FailCall.model_validate(
        {"cause": cause, "message": request.message, "event_count": request.event_count}
    )


def quota_change(request: queue_pb.UpdateQuotaRequest) -> QuotaChange:
    fields = _fields(request.quota)
    given = {name: fields[name] for name in asdict(Quota()) if name in fields}
    return QuotaChange(request.quota.name, given, request.update_mask.paths, request.request_id)


def telemetry(subject: str, payload: bytes) -> Telemetry:
    """Raises Unreadable. `payload` is a TuningJobEvent without a sequence."""
    try:
        return _telemetry(subject, payload)
    except (DecodeError, InvalidArgument, ValueError, OverflowError) as error:
        raise Unreadable(str(error)) from error


def _telemetry(subject: str, payload: bytes) -> Telemetry:
    place = _TELEMETRY_SUBJECT.fullmatch(subject)
    event = job_pb.TuningJobEvent.FromString(payload)
    if place is None or event.attempt < 1 or event.attempt_sequence < 1:
        raise Unreadable("an event of a node has a job, an attempt and a number")
    if event.WhichOneof("event") in (None, "state_change"):
        raise Unreadable("a node tells what its engine does, not the state of a job")
    return Telemetry(
        job=TuningJobName(place[1], place[2]),
        attempt=event.attempt,
        number=event.attempt_sequence,
        time=event.time.ToDatetime(UTC),
        report=_report(event),
        payload=payload,
    )


def _report(event: job_pb.TuningJobEvent) -> Report:
    match event.WhichOneof("event"):
        case "started":
            return Started(event.started.start_step, event.started.total_steps)
        case "resumed":
            return _resumed(event.resumed)
        case "step":
            return _stepped(event.step)
        case "evaluation":
            return Evaluated(event.evaluation.loss)
        case _:
            return Remark()


def _resumed(resumed: job_pb.TrainingResumed) -> Resumed:
    return Resumed(
        step=resumed.step,
        checkpoint_digest=resumed.checkpoint_digest,
        restored_digest=resumed.restored_digest,
        exact=resumed.exact,
        environment_changes=tuple(resumed.environment_changes),
    )


def _stepped(step: job_pb.TrainingStep) -> Stepped:
    return Stepped(
        step=step.step,
        total_steps=step.total_steps,
        epoch=step.epoch,
        loss=step.loss,
        best_loss=step.best_loss,
        percent=step.progress_percent,
        tokens_per_second=step.tokens_per_second,
        eta_s=min(step.eta.seconds + step.eta.nanos / 1e9, _LONGEST_ETA_S),
    )


def _settings(job: job_pb.TuningJob) -> dict[str, object]:
    """What is set of the job; what is not takes its default in the domain."""
    settings: dict[str, object] = {"seed": job.seed, "labels": dict(job.labels)}
    if job.backend:
        settings["backend"] = word_of(job_pb.Backend.DESCRIPTOR, job.backend)
    if job.max_attempts:
        settings["max_attempts"] = job.max_attempts
    if job.priority:
        settings["priority"] = word_of(job_pb.Priority.DESCRIPTOR, job.priority)
    if job.HasField("requirements"):
        settings["requirements"] = _requirements(job.requirements)
    if job.HasField("deadline_time"):
        settings["deadline_time"] = _time(job.deadline_time, "tuning_job.deadline_time")
    if kind := job.WhichOneof("method"):
        settings["method"] = {"kind": kind, **_fields(getattr(job, kind))}
    if job.HasField("training"):
        settings["training"] = _fields(job.training)
    return settings


def _requirements(message: job_pb.Requirements) -> dict[str, object]:
    return _fields(message) | {"node_labels": dict(message.node_labels)}


def _time(message: Timestamp, field: str) -> datetime:
    """Raises InvalidArgument."""
    try:
        return message.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument.of(field, "is no time between the years 1 and 9999") from error


def _fields(message: Message) -> dict[str, object]:
    """The fields that are set, by name; repeated ones as tuples, enums as words."""
    return {field.name: _value(field, value) for field, value in message.ListFields()}


def _value(field: FieldDescriptor, value: Any) -> object:
    if field.enum_type is not None:
        return word_of(field.enum_type, value)
    return tuple(value) if field.is_repeated else value
