"""Scripted services behind a real gRPC server: they keep what they were told and fail on demand."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from anneal.abtest.v1 import ab_test_service_pb2 as abtest
from anneal.abtest.v1.ab_test_service_pb2_grpc import ABTestServiceServicer
from anneal.abtest.v1.experiment_pb2 import Experiment, ExperimentReport, Interval, Pair, Vote
from anneal.common.v1.conversation_pb2 import ROLE_USER, ChatMessage
from anneal.dataset.v1 import dataset_service_pb2 as dataset_service
from anneal.dataset.v1.dataset_pb2 import (
    Dataset,
    DatasetVersion,
    Example,
    LineFault,
    UploadRejection,
)
from anneal.dataset.v1.dataset_service_pb2 import UploadHeader
from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceServicer
from anneal.inference.v1 import inference_service_pb2 as inference
from anneal.inference.v1.inference_service_pb2_grpc import InferenceServiceServicer
from anneal.registry.v1 import registry_service_pb2 as registry
from anneal.registry.v1.model_pb2 import Artifact, Model, ModelAlias, ModelVersion
from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceServicer
from anneal.trainer.v1 import tuning_job_service_pb2 as trainer
from anneal.trainer.v1 import tuning_sweep_service_pb2 as sweeping
from anneal.trainer.v1.tuning_job_pb2 import StateChange, TrainingStep, TuningJob, TuningJobEvent
from anneal.trainer.v1.tuning_job_service_pb2_grpc import TuningJobServiceServicer
from anneal.trainer.v1.tuning_sweep_pb2 import TuningSweep
from anneal.trainer.v1.tuning_sweep_service_pb2_grpc import TuningSweepServiceServicer

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
    uploads_cut_off: int = 0
    """How many uploads break half way."""

    job: TuningJob = field(default_factory=TuningJob)
    events: list[TuningJobEvent] = field(default_factory=list)
    watches: list[Callable[[list[TuningJobEvent]], Iterator[TuningJobEvent]]] = field(
        default_factory=list
    )
    """How the next watches behave, in order; those after them behave well."""

    sweeps: list[TuningSweep] = field(default_factory=list)
    """How a sweep stands at each look, in order; the last stays."""

    estimated: trainer.EstimateTuningJobResponse = field(
        default_factory=trainer.EstimateTuningJobResponse
    )
    recommended: trainer.RecommendMethodResponse = field(
        default_factory=trainer.RecommendMethodResponse
    )

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


class ScriptedDatasets(DatasetServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def UploadDatasetVersion(self, requests: Iterator[Any], context: Context) -> DatasetVersion:
        header = next(requests).header
        self.world.heard("UploadDatasetVersion", header, context)
        content = b""
        for request in requests:
            content += request.chunk
            if self.world.uploads_cut_off:
                self.world.uploads_cut_off -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
        lines = content.splitlines()
        bad = [n for n, line in enumerate(lines, 1) if not line.startswith(b"{")]
        if bad:
            rejection = UploadRejection(
                faults=[
                    LineFault(line=n, code="NOT_JSON", pointer="", message="this is no JSON")
                    for n in bad[:100]
                ],
                fault_count=len(bad),
                line_count=len(lines),
            )
            abort(
                context,
                status(grpc.StatusCode.INVALID_ARGUMENT, "UPLOAD_REJECTED", "bad lines", rejection),
            )
        self.world.uploads.append((header, content))
        return DatasetVersion(
            name=f"{header.parent}/versions/{VERSION_ID}",
            example_count=len(lines),
            size_bytes=len(content),
            digest=hashlib.sha256(content).hexdigest(),
        )

    def GetDataset(self, request: Any, context: Context) -> Dataset:
        self.world.heard("GetDataset", request, context)
        found = [one for one in self.world.datasets if one.name == request.name]
        if not found:
            abort(context, not_found(request.name))
        return found[0]

    def ListDatasets(self, request: Any, context: Context) -> Any:
        self.world.heard("ListDatasets", request, context)
        items, token = page_of(self.world.datasets, request.page_token)
        return dataset_service.ListDatasetsResponse(datasets=items, next_page_token=token)

    def DeleteDataset(self, request: Any, context: Context) -> Empty:
        self.world.heard("DeleteDataset", request, context)
        return Empty()

    def GetDatasetVersion(self, request: Any, context: Context) -> DatasetVersion:
        self.world.heard("GetDatasetVersion", request, context)
        digest = hashlib.sha256(self.world.uploads[-1][1]).hexdigest()
        name = request.name.replace("latest", VERSION_ID)
        return DatasetVersion(name=name, digest=digest, example_count=3)

    def ListDatasetVersions(self, request: Any, context: Context) -> Any:
        version = DatasetVersion(name=f"{request.parent}/versions/{VERSION_ID}", example_count=3)
        return dataset_service.ListDatasetVersionsResponse(dataset_versions=[version])

    def PreviewDatasetVersion(self, request: Any, context: Context) -> Any:
        self.world.heard("PreviewDatasetVersion", request, context)
        items, token = page_of(self.world.examples, request.page_token)
        return dataset_service.PreviewDatasetVersionResponse(examples=items, next_page_token=token)

    def DownloadDatasetVersion(self, request: Any, context: Context) -> Iterator[Any]:
        content = self.world.uploads[-1][1]
        if self.world.damaged:
            content = content[:-1]
        for start in range(0, len(content), 300_000):
            yield dataset_service.DownloadDatasetVersionResponse(
                chunk=content[start : start + 300_000]
            )


class ScriptedJobs(TuningJobServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def CreateTuningJob(self, request: Any, context: Context) -> TuningJob:
        self.world.heard("CreateTuningJob", request, context)
        job = TuningJob()
        job.CopyFrom(request.tuning_job)
        job.name = f"{request.parent}/tuningJobs/{request.tuning_job_id or 'job-1'}"
        job.state = TuningJob.STATE_QUEUED
        return job

    def GetTuningJob(self, request: Any, context: Context) -> TuningJob:
        self.world.heard("GetTuningJob", request, context)
        if request.name != self.world.job.name:
            abort(context, not_found(request.name))
        return self.world.job

    def ListTuningJobs(self, request: Any, context: Context) -> Any:
        self.world.heard("ListTuningJobs", request, context)
        return trainer.ListTuningJobsResponse(tuning_jobs=[self.world.job])

    def EstimateTuningJob(
        self, request: Any, context: Context
    ) -> trainer.EstimateTuningJobResponse:
        self.world.heard("EstimateTuningJob", request, context)
        return self.world.estimated

    def RecommendMethod(self, request: Any, context: Context) -> trainer.RecommendMethodResponse:
        self.world.heard("RecommendMethod", request, context)
        return self.world.recommended

    def CancelTuningJob(self, request: Any, context: Context) -> TuningJob:
        self.world.heard("CancelTuningJob", request, context)
        return TuningJob(name=request.name, state=TuningJob.STATE_CANCELLING)

    def WatchTuningJob(self, request: Any, context: Context) -> Iterator[Any]:
        self.world.heard("WatchTuningJob", request, context)
        behave = self.world.watches.pop(0) if self.world.watches else iter
        try:
            for event in behave(self.world.events[request.after_sequence :]):
                yield trainer.WatchTuningJobResponse(event=event)
        except ConnectionError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))


class ScriptedSweeps(TuningSweepServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def SweepTuningJob(self, request: Any, context: Context) -> TuningSweep:
        self.world.heard("SweepTuningJob", request, context)
        return self.world.sweeps[0]

    def GetTuningSweep(self, request: Any, context: Context) -> TuningSweep:
        self.world.heard("GetTuningSweep", request, context)
        if request.name != self.world.sweeps[0].name:
            abort(context, not_found(request.name))
        return self.world.sweeps.pop(0) if len(self.world.sweeps) > 1 else self.world.sweeps[0]

    def ListTuningSweeps(self, request: Any, context: Context) -> Any:
        items, token = page_of(self.world.sweeps, request.page_token)
        return sweeping.ListTuningSweepsResponse(tuning_sweeps=items, next_page_token=token)

    def CancelTuningSweep(self, request: Any, context: Context) -> TuningSweep:
        self.world.heard("CancelTuningSweep", request, context)
        return TuningSweep(name=request.name, state=TuningSweep.STATE_CANCELLED)


class ScriptedRegistry(RegistryServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def GetModel(self, request: Any, context: Context) -> Model:
        return Model(name=request.name, version_count=1)

    def ListModels(self, request: Any, context: Context) -> Any:
        return registry.ListModelsResponse(models=[Model(name=f"{request.parent}/models/support")])

    def ListModelVersions(self, request: Any, context: Context) -> Any:
        version = ModelVersion(name=f"{request.parent}/versions/{VERSION_ID}", ordinal=1)
        return registry.ListModelVersionsResponse(model_versions=[version])

    def GetModelVersion(self, request: Any, context: Context) -> ModelVersion:
        self.world.heard("GetModelVersion", request, context)
        if self.world.hidden_for:
            self.world.hidden_for -= 1
            abort(context, not_found(request.name))
        return ModelVersion(
            name=request.name.replace("latest", VERSION_ID),
            artifacts=[
                Artifact(path=p, size_bytes=len(b), sha256=hashlib.sha256(b).hexdigest())
                for p, b in self.world.files.items()
            ],
        )

    def DownloadModelVersion(self, request: Any, context: Context) -> Iterator[Any]:
        self.world.heard("DownloadModelVersion", request, context)
        for path, content in self.world.files.items():
            if path == self.world.missing or (request.paths and path not in request.paths):
                continue
            content += b"!" if path == self.world.damaged else b""
            for start in range(0, max(len(content), 1), 5):
                chunk = content[start : start + 5]
                yield registry.DownloadModelVersionResponse(path=path, chunk=chunk)

    def GetModelAlias(self, request: Any, context: Context) -> ModelAlias:
        self.world.heard("GetModelAlias", request, context)
        if request.name not in self.world.aliases:
            abort(context, not_found(request.name))
        return self.world.aliases[request.name]

    def ListModelAliases(self, request: Any, context: Context) -> Any:
        return registry.ListModelAliasesResponse(model_aliases=list(self.world.aliases.values()))

    def UpdateModelAlias(self, request: Any, context: Context) -> ModelAlias:
        self.world.heard("UpdateModelAlias", request, context)
        self.world.aliases[request.model_alias.name] = request.model_alias
        return request.model_alias

    def DeleteModelAlias(self, request: Any, context: Context) -> Empty:
        self.world.heard("DeleteModelAlias", request, context)
        return Empty()


class ScriptedInference(InferenceServiceServicer):
    """Answers with the words of the question, backwards."""

    def __init__(self, world: World) -> None:
        self.world = world

    def GenerateText(self, request: Any, context: Context) -> Any:
        self.world.heard("GenerateText", request, context)
        text = " ".join(reversed(request.messages[-1].content.split()))
        return inference.GenerateTextResponse(text=text, model=request.model)

    def StreamGenerateText(self, request: Any, context: Context) -> Iterator[Any]:
        self.world.heard("StreamGenerateText", request, context)
        for word in reversed(request.messages[-1].content.split()):
            yield inference.StreamGenerateTextResponse(text=f"{word} ")

    def ScoreConversation(self, request: Any, context: Context) -> Any:
        self.world.heard("ScoreConversation", request, context)
        return inference.ScoreConversationResponse(loss_sum=1.5, token_count=3)


class ScriptedExperiments(ABTestServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def CreateExperiment(self, request: Any, context: Context) -> Experiment:
        self.world.heard("CreateExperiment", request, context)
        experiment = Experiment()
        experiment.CopyFrom(request.experiment)
        experiment.name = f"{request.parent}/experiments/{request.experiment_id or 'exp-1'}"
        experiment.prompt_count = len(request.experiment.prompts)
        return experiment

    def GetExperiment(self, request: Any, context: Context) -> Experiment:
        self.world.heard("GetExperiment", request, context)
        is_pending = self.world.pending_for > 0
        self.world.pending_for -= is_pending
        state = Experiment.STATE_GENERATING if is_pending else Experiment.STATE_READY
        return Experiment(name=request.name, state=state, prompt_count=2)

    def NextPair(self, request: Any, context: Context) -> Any:
        self.world.heard("NextPair", request, context)
        if self.world.pending_for:
            self.world.pending_for -= 1
            abort(context, _precondition("ANSWERS_PENDING"))
        if len(self.world.votes) >= len(self.world.pairs):
            abort(context, _precondition("NO_PAIR_LEFT"))
        return abtest.NextPairResponse(pair=self.world.pairs[len(self.world.votes)])

    def CastVote(self, request: Any, context: Context) -> Any:
        self.world.votes.append(request)
        return abtest.CastVoteResponse(
            vote=Vote(
                pair=request.name,
                voter=request.voter,
                choice=request.choice,
                left_model="baseModels/tiny-base",
                right_model=f"projects/default/models/support/versions/{VERSION_ID}",
            )
        )

    def GetExperimentReport(self, request: Any, context: Context) -> ExperimentReport:
        self.world.heard("GetExperimentReport", request, context)
        return ExperimentReport(
            name=request.name,
            wins=12,
            losses=5,
            ties=3,
            win_rate=0.675,
            interval=Interval(lower=0.45, upper=0.86, confidence=0.95, method="hedged_betting"),
            verdict=ExperimentReport.VERDICT_INCONCLUSIVE,
        )


def _precondition(reason: str) -> Status:
    return status(grpc.StatusCode.FAILED_PRECONDITION, reason, reason.lower())


def step_event(sequence: int) -> TuningJobEvent:
    step = TrainingStep(step=sequence, total_steps=9, loss=1 / sequence, best_loss=1 / sequence)
    return TuningJobEvent(sequence=sequence, attempt=1, step=step)


def end_event(sequence: int) -> TuningJobEvent:
    change = StateChange(to=TuningJob.STATE_SUCCEEDED)
    return TuningJobEvent(sequence=sequence, state_change=change)


def chat_lines(count: int) -> bytes:
    line = json.dumps({"messages": [{"role": "user", "content": "hello " * 20}]})
    return f"{line}\n".encode() * count
