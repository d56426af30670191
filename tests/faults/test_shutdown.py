"""R11: services that are told to stop finish what they have begun, and begin nothing more."""

import asyncio
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from anneal.abtest.v1 import ab_test_service_pb2 as abtest_pb
from anneal.abtest.v1.ab_test_service_pb2_grpc import ABTestServiceStub
from anneal.abtest.v1.experiment_pb2 import Experiment, Vote
from anneal.common.v1.conversation_pb2 import ROLE_USER, ChatMessage
from anneal.dataset.v1 import dataset_service_pb2 as dataset_pb
from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from anneal.inference.v1 import inference_service_pb2 as inference_pb
from anneal.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from anneal.registry.v1 import registry_service_pb2 as registry_pb
from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from anneal.trainer.v1 import tuning_job_service_pb2 as trainer_pb
from anneal.trainer.v1.tuning_job_service_pb2_grpc import TuningJobServiceStub
from anneal.transport import open_channel
from tests.faults.site import SPINE, STOP_LIMIT_S, Site
from tests.faults.world import METHOD, PATIENCE_S, QUICK, World

pytestmark = [pytest.mark.fault("R11"), pytest.mark.timeout(300)]

PARENT = "projects/default"
TOKENS = 16
MANY_QUESTIONS = 100
UNDER_LOAD_S = 1.0
Call = Callable[[], Awaitable[Any]]


@dataclass
class Load:
    """Calls to one service, one after the other by several callers, until it is away."""

    call: Callable[[str], Awaitable[Any]]
    callers: int = 6
    codes: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)

    async def run(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(self.callers)))

    async def _caller(self) -> None:
        while True:
            name = f"load-{uuid.uuid4()}"
            try:
                await self.call(name)
            except grpc.aio.AioRpcError as error:
                self.codes[error.code().name] += 1
                self.unanswered.append(name)
                return
            self.codes["OK"] += 1


def loads(desk: World, channels: dict[str, grpc.aio.Channel]) -> Iterator[tuple[str, Load]]:
    datasets = DatasetServiceStub(channels["dataset"])
    jobs = TuningJobServiceStub(channels["trainer"])
    registry = RegistryServiceStub(channels["registry"])
    draft = desk.client.jobs.describe(desk.dataset, "tiny-base", method=METHOD)

    def create(name: str) -> Awaitable[Any]:
        request = trainer_pb.CreateTuningJobRequest(
            parent=PARENT, tuning_job_id=name, tuning_job=draft, request_id=name[5:]
        )
        return jobs.CreateTuningJob(request, timeout=20)

    listed = dataset_pb.ListDatasetsRequest(parent=PARENT)
    yield "dataset", Load(lambda _: datasets.ListDatasets(listed, timeout=20))
    yield "trainer", Load(create)
    models = registry_pb.ListModelsRequest(parent=PARENT)
    yield "registry", Load(lambda _: registry.ListModels(models, timeout=20))


async def stops_serving_at(channel: grpc.aio.Channel) -> float:
    """When its health says so."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    async for answer in watch:
        if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
            break
    return time.monotonic()


async def stopped_under_load(
    site: Site,
    services: Sequence[str],
    loads: Callable[[dict[str, grpc.aio.Channel]], Iterator[tuple[str, Load]]],
    tell: Callable[..., None],
) -> dict[str, Load]:
    """What became of the load of each of the services, which are told to stop in the middle."""
    at = {name: f"127.0.0.1:{getattr(site.ports, name)}" for name in services}
    channels = {name: open_channel(address) for name, address in at.items()}
    silent = {name: asyncio.create_task(stops_serving_at(one)) for name, one in channels.items()}
    running = [(name, load, asyncio.create_task(load.run())) for name, load in loads(channels)]
    await asyncio.sleep(UNDER_LOAD_S)
    began_s = time.monotonic()
    stopping = (asyncio.to_thread(site.stop, name) for name in services)
    stopped = dict(zip(services, await asyncio.gather(*stopping), strict=True))
    for name, load, task in running:
        await asyncio.wait_for(task, STOP_LIMIT_S)
        code, took_s = stopped[name]
        tell(
            "R11",
            service=name,
            calls=dict(load.codes),
            not_serving_after_s=await silent[name] - began_s,
            stopped_after_s=took_s,
        )
        assert code == 0
        assert set(load.codes) <= {"OK", "UNAVAILABLE", "CANCELLED"}
        # gRPC drops the one call that it had taken in and not handed over: it has not begun either
        assert load.codes["CANCELLED"] <= 1
    for channel in channels.values():
        await channel.close()
    return {name: load for name, load, _ in running}


async def test_sigterm_under_load_fails_no_call_that_has_begun(
    site: Site, desk: World, tell: Callable[..., None]
) -> None:
    site.stop("node-a")  # the jobs of this test are not to be trained
    ended = await stopped_under_load(site, SPINE, lambda to: loads(desk, to), tell)
    for name in ended:
        site.start(name)
    await asyncio.to_thread(site.await_serving, *ended)
    await asyncio.to_thread(none_was_made_and_all_go, desk, ended["trainer"].unanswered)
    site.start("node-a")


def none_was_made_and_all_go(desk: World, unanswered: list[str]) -> None:
    """What was not answered was not begun."""
    made = [job.name for job in desk.client.jobs.list(filter_text="state = QUEUED")]
    assert made
    assert {name.rsplit("/", 1)[1] for name in made}.isdisjoint(unanswered)
    for name in made:
        desk.client.jobs.cancel(name)


@pytest.fixture
def voting(site: Site, desk: World) -> str:
    """An experiment whose answers are there, on a service that has its worker."""
    site.start("inference", ANNEAL_SERVER_GRACE_S=str(STOP_LIMIT_S - 5))
    site.start("abtest")
    job = desk.create(f"voted-{uuid.uuid4()}", QUICK)
    site.await_serving("inference", "abtest")
    list(desk.watch(job))
    version = desk.client.jobs.get(job.name).model_version
    desk.client.models.wait_for_version(version, timeout_s=PATIENCE_S)
    experiments = desk.client.experiments
    made = experiments.create("tiny-base", version, ["Hello?", "Who?"], max_output_tokens=TOKENS)
    whole = experiments.wait_for_answers(made.name, timeout_s=PATIENCE_S)
    assert whole.state == Experiment.STATE_READY
    return made.name


class AnswerCut(Exception):
    """A stream that had begun did not come to its end."""


def answering_loads(
    experiment: str, channels: dict[str, grpc.aio.Channel]
) -> Iterator[tuple[str, Load]]:
    inference = InferenceServiceStub(channels["inference"])
    abtest = ABTestServiceStub(channels["abtest"])
    asked = {
        "parent": PARENT,
        "model": "baseModels/tiny-base",
        "messages": [ChatMessage(role=ROLE_USER, content="Hello?")],
        "sampling": inference_pb.SamplingParameters(max_output_tokens=TOKENS),
    }

    async def answer(_: str) -> None:
        request = inference_pb.GenerateTextRequest(**asked)
        assert_whole(await inference.GenerateText(request, timeout=PATIENCE_S))

    async def stream(_: str) -> None:
        request = inference_pb.StreamGenerateTextRequest(**asked)
        pieces: list[inference_pb.StreamGenerateTextResponse] = []
        try:
            async for piece in inference.StreamGenerateText(request):
                pieces.append(piece)
        except grpc.aio.AioRpcError as error:
            if pieces:
                raise AnswerCut from error
            raise
        assert_whole(pieces[-1])

    async def vote(voter: str) -> None:
        next_pair = abtest_pb.NextPairRequest(name=experiment, voter=voter)
        pair = (await abtest.NextPair(next_pair, timeout=20)).pair
        cast = abtest_pb.CastVoteRequest(name=pair.name, voter=voter, choice=Vote.CHOICE_TIE)
        await abtest.CastVote(cast, timeout=20)

    yield "inference", Load(answer, callers=2)
    yield "inference", Load(stream, callers=2)
    yield "abtest", Load(vote)


def assert_whole(
    end: inference_pb.GenerateTextResponse | inference_pb.StreamGenerateTextResponse,
) -> None:
    assert end.finish_reason != inference_pb.FINISH_REASON_UNSPECIFIED
    assert 0 < end.usage.output_tokens <= TOKENS


async def test_sigterm_cuts_no_answer_and_loses_and_doubles_no_vote(
    site: Site, desk: World, voting: str, long: bool, tell: Callable[..., None]
) -> None:
    generating = await asyncio.to_thread(
        desk.client.experiments.create,
        "tiny-base",
        desk.client.experiments.get(voting).candidate_model,
        [f"Question {number}?" for number in range(MANY_QUESTIONS)],
        max_output_tokens=TOKENS,
    )
    workers = psutil.Process(site.pid("inference")).children()
    assert workers
    ended = await stopped_under_load(
        site, ("abtest", "inference"), lambda to: answering_loads(voting, to), tell
    )
    assert not any(worker.is_running() for worker in workers)
    cast = ended["abtest"].codes["OK"]
    assert cast > 0
    with closing(sqlite3.connect(site.database("abtest"))) as connection:
        voters = [voter for (voter,) in connection.execute("SELECT voter FROM votes")]
    assert len(voters) == cast
    assert set(voters).isdisjoint(ended["abtest"].unanswered)
    if long:
        site.start("inference")
        site.start("abtest")
        await asyncio.to_thread(site.await_serving, "inference", "abtest")
        whole = await asyncio.to_thread(
            desk.client.experiments.wait_for_answers, generating.name, timeout_s=PATIENCE_S
        )
        assert whole.state == Experiment.STATE_READY, "an outage of inference is waited out"
