"""NodeLeaseService as the node's `Leases`."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from anneal.enums import word_of
from anneal.registry.v1 import base_model_pb2
from anneal.trainer.v1 import estimate_pb2
from anneal.trainer.v1 import node_lease_service_pb2 as pb
from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.transport import CHANNEL_OPTIONS, Option
from services.common.directories import hub_digest
from services.common.faults import Unavailable
from services.common.ids import NewId
from services.trainer.node import engine_settings
from services.trainer.node.capabilities import About, Capabilities
from services.trainer.node.device import Device, Host
from services.trainer.node.lease import (
    Beat,
    Cause,
    Directive,
    Failure,
    HubBase,
    Lease,
    LeaseLost,
    LocalBase,
    Refused,
    Result,
    StoredCheckpoint,
)
from services.trainer.node.outcomes import MESSAGE_LIMIT
from services.trainer.node.translation import checkpoint_message

if TYPE_CHECKING:
    from anneal.trainer.v1.node_lease_service_pb2_grpc import NodeLeaseServiceAsyncStub

T = TypeVar("T")

_KEEPALIVE: Mapping[str, int] = {
    "grpc.keepalive_time_ms": 12_000,
    "grpc.http2.ping_timeout_ms": 5_000,
}
NODE_CHANNEL_OPTIONS: Sequence[Option] = tuple(
    (name, _KEEPALIVE.get(name, value)) for name, value in CHANNEL_OPTIONS
)
"""A dead connection is replaced before a lease of 30 s is over: the usual keepalive takes all of
it."""

_CALL_TIMEOUT_S = 15.0
_TRIES_PER_LEASE = 3
_SHORTEST_TRY_S = 1.0
_CLAIM_MARGIN_S = 10.0
_CAUSES = {
    Cause.ENGINE_ERROR: pb.FailTuningJobRequest.CAUSE_ENGINE_ERROR,
    Cause.ENGINE_KILLED: pb.FailTuningJobRequest.CAUSE_ENGINE_KILLED,
    Cause.OUT_OF_MEMORY: pb.FailTuningJobRequest.CAUSE_OUT_OF_MEMORY,
    Cause.INVALID_JOB: pb.FailTuningJobRequest.CAUSE_INVALID_JOB,
    Cause.DIVERGED: pb.FailTuningJobRequest.CAUSE_DIVERGED,
    Cause.STORAGE: pb.FailTuningJobRequest.CAUSE_STORAGE,
    Cause.NODE_STOPPING: pb.FailTuningJobRequest.CAUSE_NODE_STOPPING,
    Cause.CANCELLED: pb.FailTuningJobRequest.CAUSE_CANCELLED,
    Cause.NO_PROGRESS: pb.FailTuningJobRequest.CAUSE_NO_PROGRESS,
    Cause.PAUSED: pb.FailTuningJobRequest.CAUSE_PAUSED,
    Cause.PREEMPTED: pb.FailTuningJobRequest.CAUSE_PREEMPTED,
    Cause.DEADLINE: pb.FailTuningJobRequest.CAUSE_DEADLINE,
}
_DIRECTIVES: Mapping[int, Directive] = {
    pb.DIRECTIVE_CANCEL: Directive.CANCEL,
    pb.DIRECTIVE_PAUSE: Directive.PAUSE,
    pb.DIRECTIVE_YIELD: Directive.YIELD,
    pb.DIRECTIVE_FINISH: Directive.FINISH,
}
_PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by a service that is shutting down
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,  # overtaken by another transaction: STALE_ATTEMPT apart
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
_STATUS = "grpc-status-details-bin"


class GrpcLeases:
    """Raises Unavailable for whatever may pass, LeaseLost for a stale attempt or a job that is no
    more, Refused for any other answer."""

    def __init__(
        self,
        stub: "NodeLeaseServiceAsyncStub",
        node_name: str,
        new_uid: NewId,
        host: Host,
        backends: Sequence[str] = ("builtin",),
        about: About | None = None,
    ) -> None:
        self._stub = stub
        self._node_name = node_name
        self._new_uid = new_uid
        self._host = host
        self._backends = [job_pb.Backend.Value(f"BACKEND_{name.upper()}") for name in backends]
        self._about = about or About()
        self._claim_id: str | None = None

    async def claim(self, wait_s: float, free_devices: int) -> Lease | None:
        """Repeats an unanswered claim under its own id, so that no lease is lost on the way."""
        self._claim_id = claim_id = self._claim_id or self._new_uid()
        request = pb.ClaimTuningJobRequest(
            node=self._node_name,
            wait=_duration(wait_s),
            request_id=claim_id,
            device=_device(await self._host.device()),
            backends=self._backends,
            free_devices=free_devices,
            labels=self._about.labels,
            capabilities=_capabilities(await self._about.capabilities()),
        )
        response = await _reached(
            self._stub.ClaimTuningJob(request, timeout=wait_s + _CLAIM_MARGIN_S)
        )
        self._claim_id = None
        if not response.HasField("lease"):
            self._about.self_test.begin()  # there is nothing else to do
            return None
        self._about.self_test.interrupt()
        return _lease(response.lease)

    async def granted(self) -> Lease | None:
        if self._claim_id is None:
            return None
        request = pb.ClaimTuningJobRequest(
            node=self._node_name, request_id=self._claim_id, stopping=True
        )
        response = await _reached(self._stub.ClaimTuningJob(request, timeout=_CALL_TIMEOUT_S))
        self._claim_id = None
        return _lease(response.lease) if response.HasField("lease") else None

    async def heartbeat(self, lease: Lease, beat: Beat) -> Directive:
        request = pb.HeartbeatTuningJobRequest(
            name=lease.job,
            attempt=lease.attempt,
            step=beat.step,
            checkpoint=checkpoint_message(beat.stored) if beat.stored else None,
            refused_checkpoints=[checkpoint_message(beat.refused)] if beat.refused else [],
        )
        call = self._stub.HeartbeatTuningJob(request, timeout=_heartbeat_timeout_s(lease))
        answer = await _held(call, lease)
        if answer.cancel_requested and not answer.directive:  # by a service of an earlier version
            return Directive.CANCEL
        return _directive(answer.directive)

    async def complete(self, lease: Lease, result: Result, event_count: int) -> None:
        request = pb.CompleteTuningJobRequest(
            name=lease.job,
            attempt=lease.attempt,
            manifest_digest=result.manifest_digest,
            base_model_digest=result.base_model_digest,
            code_version=result.code_version,
            metrics=result.metrics,
            event_count=event_count,
        )
        await _held(self._stub.CompleteTuningJob(request, timeout=_CALL_TIMEOUT_S), lease)

    async def fail(self, lease: Lease, failure: Failure, event_count: int) -> None:
        request = pb.FailTuningJobRequest(
            name=lease.job,
            attempt=lease.attempt,
            cause=_CAUSES[failure.cause],
            message=failure.message[:MESSAGE_LIMIT],
            event_count=event_count,
        )
        await _held(self._stub.FailTuningJob(request, timeout=_CALL_TIMEOUT_S), lease)


def _heartbeat_timeout_s(lease: Lease) -> float:
    """One that is not answered leaves time for another."""
    return min(_CALL_TIMEOUT_S, max(_SHORTEST_TRY_S, lease.duration_s / _TRIES_PER_LEASE))


async def _held(call: Awaitable[T], lease: Lease) -> T:
    """The answer to a call under a lease."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND or _reason(error) == "STALE_ATTEMPT":
            raise LeaseLost(lease.job, lease.attempt) from error
        raise _fault(error) from error


async def _reached(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise _fault(error) from error


def _fault(error: grpc.aio.AioRpcError) -> Unavailable | Refused:
    if error.code() in _PASSING:
        return Unavailable("TRAINER_DOWN", error.details() or error.code().name)
    return Refused(f"{error.code().name}: {error.details()}")


def _reason(error: grpc.aio.AioRpcError) -> str:
    """The service's word for the fault; empty if gRPC itself made it."""
    info = ErrorInfo()
    for key, value in error.trailing_metadata():
        if key == _STATUS and isinstance(value, bytes):
            any(detail.Unpack(info) for detail in Status.FromString(value).details)
    return info.reason


def _lease(message: pb.Lease) -> Lease:
    job = message.job
    return Lease(
        job=job.name,
        uid=job.uid,
        attempt=job.attempt,
        duration_s=message.duration.ToTimedelta().total_seconds(),
        dataset_digest=message.dataset_digest,
        base=_base(message.base_model),
        seed=job.seed,
        method=engine_settings.method(job),
        training=engine_settings.training(job),
        start_manifest_digest=message.start_manifest_digest,
        checkpoints=tuple(_stored(one) for one in message.checkpoints),
        backend=_backend(job.backend),
        directive=_directive(message.directive),
        device_count=max(1, job.requirements.device_count),
        out_of_memory_attempts=tuple(message.out_of_memory_attempts),
    )


def _stored(message: job_pb.Checkpoint) -> StoredCheckpoint:
    return StoredCheckpoint(
        attempt=message.attempt,
        step=message.step,
        manifest_digest=message.manifest_digest,
        size_bytes=message.size_bytes,
        validation_loss=message.validation_loss if message.HasField("validation_loss") else None,
        job_uid=message.job_uid,
    )


def _directive(number: int) -> Directive:
    """One of a newer service is none that could be followed here."""
    return _DIRECTIVES.get(number, Directive.TRAIN)


def _device(device: Device) -> estimate_pb2.Device:
    return estimate_pb2.Device(
        kind=estimate_pb2.Device.Kind.Value(f"KIND_{device.kind.upper()}"),
        model=device.model,
        memory_bytes=device.memory_bytes,
        bfloat16_flops=device.bfloat16_flops,
        float32_flops=device.float32_flops,
    )


def _capabilities(known: Capabilities) -> pb.NodeCapabilities:
    return pb.NodeCapabilities(**asdict(known))


def _backend(number: int) -> str:
    """That of a newer service is a number, which no program here has for a name."""
    if number == job_pb.BACKEND_UNSPECIFIED:
        return "builtin"
    return word_of(job_pb.Backend.DESCRIPTOR, number).lower()


def _base(source: base_model_pb2.BaseModelSource) -> LocalBase | HubBase:
    if source.HasField("hub"):
        repository, revision = source.hub.repository, source.hub.revision
        return HubBase(repository, revision, hub_digest(repository, revision))
    return LocalBase(source.manifest_digest)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(int(seconds * 1000))
    return duration
