"""Scripted services behind a real gRPC server: they keep what they were told and fail on demand."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from anneal.abtest.v1 import ab_test_service_pb2 as abtest
from anneal.abtest.v1.experiment_pb2 import Pair
from anneal.common.v1.conversation_pb2 import ROLE_USER, ChatMessage
from anneal.dataset.v1.dataset_pb2 import (
    Dataset,
    DatasetFormat,
    Example,
    MaskProof,
    TokenizedExample,
)
from anneal.dataset.v1.dataset_service_pb2 import UploadHeader
from anneal.registry.v1.model_pb2 import ModelAlias
from anneal.trainer.v1 import tuning_job_service_pb2 as trainer
from anneal.trainer.v1.node_service_pb2 import Node
from anneal.trainer.v1.queue_service_pb2 import Quota
from anneal.trainer.v1.tuning_job_pb2 import (
    StateChange,
    TrainingStep,
    TuningJob,
    TuningJobAttempt,
    TuningJobEvent,
)
from anneal.trainer.v1.tuning_sweep_pb2 import TuningSweep

Context = grpc.ServicerContext
PAGE = 2
VERSION_ID = "v-0123456789abcdef"


@dataclass
class World:
    """What the services hold, what they were asked, and how they fail."""

    calls: list[tuple[str, Message, dict[str, str]]] = field(default_factory=list)
    refuse: dict[str, Callable[[], Status]] = field(default_factory=dict)
    """By method: what it answers instead, once."""

    datasets: list[Dataset] = field(default_factory=list)
    uploads: list[tuple[UploadHeader, bytes]] = field(default_factory=list)
    examples: list[Example] = field(
        default_factory=lambda: [
            Example(index=i, messages=[ChatMessage(role=ROLE_USER, content=f"question {i}")])
            for i in range(5)
        ]
    )
    """What every version holds."""
    tokenized: list[TokenizedExample] = field(default_factory=list)
    """What training would see of every version."""
    proofs: list[MaskProof] = field(default_factory=list)
    """How far the proof of a version comes; the last one is complete, if there are two."""
    detected: DatasetFormat = field(default_factory=lambda: DatasetFormat(format=1))
    """How the service would read every file."""
    uploads_cut_off: int = 0
    """How many uploads break half way."""

    job: TuningJob = field(default_factory=TuningJob)
    events: list[TuningJobEvent] = field(default_factory=list)
    watches: list[Callable[[list[TuningJobEvent]], Iterator[TuningJobEvent]]] = field(
        default_factory=list
    )
    """How the next watches behave, in order; those after them behave well."""

    attempts: list[TuningJobAttempt] = field(default_factory=list)

    sweeps: list[TuningSweep] = field(default_factory=list)
    """How a sweep stands at each look, in order; the last stays."""

    estimated: trainer.EstimateTuningJobResponse = field(
        default_factory=trainer.EstimateTuningJobResponse
    )
    recommended: trainer.RecommendMethodResponse = field(
        default_factory=trainer.RecommendMethodResponse
    )

    nodes: list[Node] = field(default_factory=list)
    quota: Quota = field(default_factory=Quota)
    """Of every project, without its name."""

    files: dict[str, bytes] = field(default_factory=dict)
    damaged: str = ""
    """This file comes with another byte in it."""
    missing: str = ""
    """This file does not come."""
    hidden_for: int = 0
    """For so many looks the model version is not there yet."""
    aliases: dict[str, ModelAlias] = field(default_factory=dict)

    pending_for: int = 0
    """For so many looks an experiment's answers are not there yet."""
    pairs: list[Pair] = field(default_factory=list)
    votes: list[abtest.CastVoteRequest] = field(default_factory=list)

    def heard(self, method: str, request: Message, context: Context) -> None:
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        self.calls.append((method, request, metadata))
        if method in self.refuse:
            abort(context, self.refuse.pop(method)())

    def requests(self, method: str) -> list[Any]:
        return [request for name, request, _ in self.calls if name == method]


def status(
    code: grpc.StatusCode, reason: str, message: str, *details: Message, **metadata: str
) -> Status:
    """A status as the services send it."""
    packed = []
    for detail in (ErrorInfo(reason=reason, domain="anneal", metadata=metadata), *details):
        one = AnyMessage()
        one.Pack(detail)
        packed.append(one)
    return Status(code=code.value[0], message=message, details=packed)


def abort(context: Context, refusal: Status) -> None:
    context.set_trailing_metadata((("x-request-id", "request-of-the-log"),))
    converted = rpc_status.to_status(refusal)
    context.set_trailing_metadata((*converted.trailing_metadata, ("x-request-id", "the-log-s-id")))
    context.abort(converted.code, converted.details)


def not_found(name: str) -> Status:
    return status(grpc.StatusCode.NOT_FOUND, "NOT_HERE", f"there is no {name}", name=name)


def bad_request(*violations: tuple[str, str, str]) -> Status:
    detail = BadRequest(
        field_violations=[
            BadRequest.FieldViolation(field=f, description=d, reason=r) for f, d, r in violations
        ]
    )
    (field, description, reason), *more = violations
    message = f"{field}: {description}" + (f" (and {len(more)} more)" if more else "")
    reason = "INVALID_ARGUMENT" if more else reason
    return status(grpc.StatusCode.INVALID_ARGUMENT, reason, message, detail)


def away(retry_after_s: int) -> Status:
    detail = RetryInfo(retry_delay=Duration(seconds=retry_after_s))
    return status(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "the queue is full", detail)


def page_of(items: list[Any], token: str) -> tuple[list[Any], str]:
    start = int(token or 0)
    end = start + PAGE
    return items[start:end], str(end) if end < len(items) else ""


def step_event(sequence: int) -> TuningJobEvent:
    step = TrainingStep(step=sequence, total_steps=9, loss=1 / sequence, best_loss=1 / sequence)
    return TuningJobEvent(sequence=sequence, attempt=1, step=step)


def end_event(sequence: int) -> TuningJobEvent:
    change = StateChange(to=TuningJob.STATE_SUCCEEDED)
    return TuningJobEvent(sequence=sequence, state_change=change)


def chat_lines(count: int) -> bytes:
    line = json.dumps({"messages": [{"role": "user", "content": "hello " * 20}]})
    return f"{line}\n".encode() * count
