"""R11: services that are told to stop finish what they have begun, and begin nothing more."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from anneal.dataset.v1 import dataset_service_pb2 as dataset_pb
from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from anneal.registry.v1 import registry_service_pb2 as registry_pb
from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from anneal.trainer.v1 import tuning_job_service_pb2 as trainer_pb
from anneal.trainer.v1.tuning_job_service_pb2_grpc import TuningJobServiceStub
from anneal.transport import open_channel
from tests.faults.site import STOP_LIMIT_S, Site
from tests.faults.world import METHOD, World

pytestmark = [pytest.mark.fault("R11"), pytest.mark.timeout(300)]

PARENT = "projects/default"
CALLERS = 6
UNDER_LOAD_S = 1.0
Call = Callable[[], Awaitable[Any]]


@dataclass
class Load:
    """Calls to one service, one after the other by several callers, until it is away."""

    call: Callable[[str], Awaitable[Any]]
    codes: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)

    async def run(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))

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


async def test_sigterm_under_load_fails_no_call_that_has_begun(
    site: Site, desk: World, tell: Callable[..., None]
) -> None:
    site.stop("node-a")  # the jobs of this test are not to be trained
    at = {name: f"127.0.0.1:{getattr(site.ports, name)}" for name in site.services}
    channels = {name: open_channel(address) for name, address in at.items()}
    silent = {name: asyncio.create_task(stops_serving_at(one)) for name, one in channels.items()}
    running = {one: (load, asyncio.create_task(load.run())) for one, load in loads(desk, channels)}
    await asyncio.sleep(UNDER_LOAD_S)
    began_s = time.monotonic()
    stopped = await asyncio.gather(*(asyncio.to_thread(site.stop, name) for name in running))
    for name, (load, task) in running.items():
        await asyncio.wait_for(task, STOP_LIMIT_S)
        code, took_s = stopped[list(running).index(name)]
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

    for name in running:
        site.start(name)
    await asyncio.to_thread(site.await_serving, *running)
    await asyncio.to_thread(none_was_made_and_all_go, desk, running["trainer"][0].unanswered)
    site.start("node-a")


def none_was_made_and_all_go(desk: World, unanswered: list[str]) -> None:
    """What was not answered was not begun."""
    made = [job.name for job in desk.client.jobs.list(filter_text="state = QUEUED")]
    assert made
    assert {name.rsplit("/", 1)[1] for name in made}.isdisjoint(unanswered)
    for name in made:
        desk.client.jobs.cancel(name)
