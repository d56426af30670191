"""The scripted registry, inference and A/B tests."""

import hashlib
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.rpc.status_pb2 import Status

from anneal.abtest.v1 import ab_test_service_pb2 as abtest
from anneal.abtest.v1.ab_test_service_pb2_grpc import ABTestServiceServicer
from anneal.abtest.v1.experiment_pb2 import Experiment, ExperimentReport, Interval, Vote
from anneal.inference.v1 import inference_service_pb2 as inference
from anneal.inference.v1.inference_service_pb2_grpc import InferenceServiceServicer
from anneal.registry.v1 import registry_service_pb2 as registry
from anneal.registry.v1.model_pb2 import Artifact, Model, ModelAlias, ModelVersion
from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceServicer
from tests.contract.anneal.scripted import VERSION_ID, Context, World, abort, not_found, status


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
