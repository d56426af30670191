"""A running ABTestService on a real database, between a registry and an inference service that
follow a script over the real wire."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import pytest

from anneal.abtest.v1 import experiment_pb2
from anneal.abtest.v1.ab_test_service_pb2 import (
    CastVoteRequest,
    CreateExperimentRequest,
    GetExperimentReportRequest,
    GetExperimentRequest,
    NextPairRequest,
)
from anneal.abtest.v1.ab_test_service_pb2_grpc import (
    ABTestServiceStub,
    add_ABTestServiceServicer_to_server,
)
from anneal.common.v1 import conversation_pb2
from anneal.inference.v1 import inference_service_pb2 as inference_pb
from anneal.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from anneal.registry.v1 import base_model_pb2, model_pb2
from anneal.registry.v1 import registry_service_pb2 as registry_pb
from anneal.registry.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)
from anneal.transport import KEEPALIVE_OPTIONS, open_channel
from services.abtest.__main__ import MIGRATIONS, new_secret
from services.abtest.adapters.inference import GrpcInference
from services.abtest.adapters.registry import RegistryModels
from services.abtest.adapters.sql import tables_of
from services.abtest.domain.ballots import Ballots
from services.abtest.domain.experiments import Experiments
from services.abtest.domain.generation import Generator
from services.abtest.servicer import ABTestServicer
from services.common.errors import STATUS_METADATA_KEY, to_status
from services.common.faults import InvalidArgument
from services.common.ids import new_uid, random_id
from services.common.paging import PageTokens
from services.common.server import ServerSettings, Service, running
from services.common.store import Store, open_engine
from services.common.testing.clock import FakeClock
from tests.contract.refusals import Refusal
from tests.schemas import bring_up

BASE = "baseModels/tiny-base"
MODEL = "projects/default/models/support"
VERSION = f"{MODEL}/versions/v-0123456789abcdef"
NEWER = f"{MODEL}/versions/v-fedcba9876543210"
CHAMPION = f"{MODEL}/aliases/champion"
PARENT = "projects/default"
TICK_S = 0.02


@dataclass
class Registry(RegistryServiceServicer):
    """Knows a base model, two versions and an alias, which tests may move."""

    aliases: dict[str, str] = field(default_factory=lambda: {CHAMPION: VERSION})
    versions: dict[str, str] = field(
        default_factory=lambda: {
            VERSION: VERSION,
            NEWER: NEWER,
            f"{MODEL}/versions/latest": NEWER,
        }
    )
    down: bool = False

    async def GetBaseModel(self, request: registry_pb.GetBaseModelRequest, context: Any) -> Any:
        await self._require(request.name == BASE, context)
        return base_model_pb2.BaseModel(name=request.name)

    async def GetModelVersion(
        self, request: registry_pb.GetModelVersionRequest, context: Any
    ) -> Any:
        await self._require(request.name in self.versions, context)
        return model_pb2.ModelVersion(name=self.versions[request.name])

    async def GetModelAlias(self, request: registry_pb.GetModelAliasRequest, context: Any) -> Any:
        await self._require(request.name in self.aliases, context)
        return model_pb2.ModelAlias(name=request.name, version=self.aliases[request.name])

    async def _require(self, known: bool, context: Any) -> None:
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        if not known:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown")


@dataclass
class Inference(InferenceServiceServicer):
    """Answers with `answer`, unless `trouble` says otherwise. Knows the most calls at a time."""

    answer: Callable[[inference_pb.GenerateTextRequest], str] = lambda request: (
        f"{'tuned' if 'models/' in request.model else 'base'}: {request.messages[-1].content}"
    )
    trouble: Callable[[inference_pb.GenerateTextRequest, Any], Awaitable[None]] | None = None
    delay_s: float = 0.0
    requests: list[inference_pb.GenerateTextRequest] = field(default_factory=list)
    at_a_time: int = 0
    most_at_a_time: int = 0

    async def GenerateText(self, request: inference_pb.GenerateTextRequest, context: Any) -> Any:
        self.requests.append(request)
        self.at_a_time += 1
        self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
        try:
            await asyncio.sleep(self.delay_s)
            if self.trouble is not None:
                await self.trouble(request, context)
            return inference_pb.GenerateTextResponse(text=self.answer(request))
        finally:
            self.at_a_time -= 1


async def _too_long(_: Any, context: Any) -> None:
    fault = InvalidArgument.of("messages", "the conversation has 9,000 tokens", "PROMPT_TOO_LONG")
    status = to_status(fault)
    details = ((STATUS_METADATA_KEY, status.SerializeToString()),)
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, status.message, details)


@pytest.fixture
def too_long() -> Callable[[Any, Any], Awaitable[None]]:
    """Refuses a prompt as the real service does."""
    return _too_long


def experiment_of(
    *questions: str, baseline: str = BASE, candidate: str = CHAMPION
) -> experiment_pb2.Experiment:
    """An experiment as a caller sends it."""
    turns = [
        conversation_pb2.ChatMessage(role=conversation_pb2.ROLE_USER, content=question)
        for question in questions
    ]
    return experiment_pb2.Experiment(
        baseline_model=baseline,
        candidate_model=candidate,
        prompts=[experiment_pb2.ExperimentPrompt(messages=[turn]) for turn in turns],
    )


@dataclass(frozen=True)
class Caller:
    """The stub, and what callers do with it over and over."""

    stub: Any

    async def create(self, *questions: str, **request: Any) -> experiment_pb2.Experiment:
        experiment = request.pop("experiment", None) or experiment_of(*questions)
        return await self.stub.CreateExperiment(
            CreateExperimentRequest(**{"parent": PARENT, "experiment": experiment, **request})
        )

    async def get(self, name: str) -> experiment_pb2.Experiment:
        return await self.stub.GetExperiment(GetExperimentRequest(name=name))

    async def until(self, name: str, state: int) -> experiment_pb2.Experiment:
        while (experiment := await self.get(name)).state != state:
            await asyncio.sleep(TICK_S)
        return experiment

    async def ready(self, *questions: str, **request: Any) -> experiment_pb2.Experiment:
        created = await self.create(*questions, **request)
        return await self.until(created.name, experiment_pb2.Experiment.STATE_READY)

    async def next_pair(self, name: str, voter: str = "ada") -> experiment_pb2.Pair:
        return (await self.stub.NextPair(NextPairRequest(name=name, voter=voter))).pair

    async def cast(
        self, pair: str, choice: experiment_pb2.Vote.Choice.ValueType, voter: str = "ada"
    ) -> experiment_pb2.Vote:
        request = CastVoteRequest(name=pair, voter=voter, choice=choice)
        return (await self.stub.CastVote(request)).vote

    async def report(self, name: str) -> experiment_pb2.ExperimentReport:
        request = GetExperimentReportRequest(name=f"{name}/report")
        return await self.stub.GetExperimentReport(request)

    async def refusal(self, call: Awaitable[Any]) -> Refusal:
        """What a caller is told of a call that must fail."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        return Refusal.of(error.value)


@pytest.fixture
async def registry() -> Registry:
    return Registry()


@pytest.fixture
async def inference() -> Inference:
    return Inference()


@pytest.fixture
async def peers(registry: Registry, inference: Inference) -> AsyncGenerator[str]:
    """The address of a server that is both the registry and the inference service."""
    server = grpc.aio.server()
    add_RegistryServiceServicer_to_server(registry, server)
    add_InferenceServiceServicer_to_server(inference, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


Start = Callable[[], AbstractAsyncContextManager[Caller]]


@pytest.fixture
def start(database_url: str, peers: str, clock: FakeClock) -> Start:
    """Starts the service; again after it was stopped."""
    return partial(_started, database_url, peers, clock)


@pytest.fixture
async def caller(start: Start) -> AsyncGenerator[Caller]:
    async with start() as caller:
        yield caller


@asynccontextmanager
async def _started(url: str, peers: str, clock: FakeClock) -> AsyncGenerator[Caller]:
    await bring_up(url, MIGRATIONS)
    store = Store(open_engine(url), tables_of)
    channel = open_channel(peers)
    experiments = Experiments(
        store,
        RegistryModels(RegistryServiceStub(channel)),
        clock,
        lambda: random_id("experiment"),
        new_uid,
        new_secret,
    )
    generator = Generator(
        store,
        GrpcInference(InferenceServiceStub(channel)),
        clock,
        delays=lambda: iter([TICK_S] * 10_000),
    )
    store.on_commit(generator.wake)
    servicer = ABTestServicer(experiments, Ballots(store, clock), PageTokens(b"p" * 32))
    service = Service(
        "anneal.abtest.v1.ABTestService", add_ABTestServiceServicer_to_server, servicer
    )
    settings = ServerSettings(drain_s=0, grace_s=0.5)
    probes = {"database": store.ping}
    async with (
        running(settings, [service], probes, [generator.run]) as address,
        open_channel(address, options=KEEPALIVE_OPTIONS) as ours,  # no retries
    ):
        yield Caller(ABTestServiceStub(ours))
    await channel.close()
    await store.close()
