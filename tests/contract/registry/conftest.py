"""A running RegistryService on a real database, with the bus that jobs are announced on."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import pytest

from anneal.registry.v1 import model_pb2
from anneal.registry.v1 import registry_service_pb2 as pb
from anneal.registry.v1.registry_service_pb2_grpc import (
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)
from anneal.trainer.v1.tuning_job_pb2 import TuningJobSucceeded
from anneal.transport import open_channel
from services.common.blobs import Blobs
from services.common.bus import Bus
from services.common.bus_memory import MemoryBus
from services.common.ids import new_uid
from services.common.inbox import Consumer
from services.common.manifest import FileEntry, Manifest
from services.common.paging import PageTokens
from services.common.server import ServerSettings, Service, running
from services.common.store import Store, open_engine
from services.common.testing.clock import FakeClock
from services.registry.__main__ import MIGRATIONS
from services.registry.adapters.events import DURABLE, SUBJECT, SucceededJobs
from services.registry.adapters.intake import BlobIntake
from services.registry.adapters.sql import tables_of
from services.registry.domain.base_models import AllowedModel, BaseModels
from services.registry.domain.catalog import Models
from services.registry.domain.registrar import Registrar
from services.registry.servicer import RegistryServicer
from tests.contract.refusals import Refusal
from tests.schemas import bring_up

MODEL = "projects/default/models/support"
TICK_S = 0.02
FILES = {
    "adapter_config.json": b'{"r": 8}',
    "adapter_model.safetensors": b"weights" * 300_000,
    "empty.txt": b"",
}


@dataclass(frozen=True)
class Caller:
    """The stub, the bus and the blobs, and what tests do with them over and over."""

    stub: Any
    bus: Bus
    blobs: Blobs

    async def finished(self, job: str = "first", model: str = MODEL) -> TuningJobSucceeded:
        """The event of a job whose files are stored. What it made is its own."""
        files = {**FILES, "job.txt": job.encode()}
        entries = [
            FileEntry(path, blob.size_bytes, blob.digest)
            for path, blob in [(path, await self.blobs.put(data)) for path, data in files.items()]
        ]
        manifest = await self.blobs.put(Manifest(tuple(entries), {"job": job}).to_bytes())
        event = TuningJobSucceeded(
            manifest_digest=manifest.digest,
            dataset_digest="c" * 64,
            base_model_digest="d" * 64,
            code_version="0.1.0",
            metrics={"training_loss": 0.5, "validation_loss": float("nan")},
        )
        event.job.name = f"projects/default/tuningJobs/{job}"
        event.job.model = model
        event.job.base_model = "baseModels/tiny-base"
        event.job.dataset_version = "projects/default/datasets/support/versions/v-1"
        event.job.seed = 2**60
        event.job.lora.rank = 8
        event.job.training.learning_rate = 0.0002
        return event

    async def announce(self, event: TuningJobSucceeded, message_id: str = "") -> None:
        message_id = message_id or f"{event.job.name}:succeeded"
        await self.bus.publish(SUBJECT, event.SerializeToString(), message_id)

    async def registered(self, job: str = "first", model: str = MODEL) -> model_pb2.ModelVersion:
        """The version that a job became."""
        event = await self.finished(job, model)
        await self.announce(event)
        name = f"{model}/versions/v-{event.manifest_digest[:16]}"
        while True:
            try:
                return await self.version(name)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                await asyncio.sleep(TICK_S)

    async def version(self, name: str) -> model_pb2.ModelVersion:
        return await self.stub.GetModelVersion(pb.GetModelVersionRequest(name=name))

    async def point(
        self, alias: str, version: str, etag: str = "", **request: Any
    ) -> model_pb2.ModelAlias:
        moved = model_pb2.ModelAlias(name=f"{MODEL}/aliases/{alias}", version=version, etag=etag)
        return await self.stub.UpdateModelAlias(
            pb.UpdateModelAliasRequest(**{"model_alias": moved, "allow_missing": True, **request})
        )

    async def alias(self, alias: str) -> model_pb2.ModelAlias:
        request = pb.GetModelAliasRequest(name=f"{MODEL}/aliases/{alias}")
        return await self.stub.GetModelAlias(request)

    async def refusal(self, call: Awaitable[Any]) -> Refusal:
        """What a caller is told of a call that must fail."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        return Refusal.of(error.value)


Start = Callable[..., AbstractAsyncContextManager[Caller]]


@pytest.fixture
def start(database_url: str, memory_bus: MemoryBus, memory_blobs: Blobs, clock: FakeClock) -> Start:
    """Starts the registry with a list of base models; again after it was stopped."""
    return partial(_started, database_url, memory_bus, memory_blobs, clock)


@pytest.fixture
async def caller(start: Start) -> AsyncGenerator[Caller]:
    async with start() as caller:
        yield caller


@asynccontextmanager
async def _started(
    url: str, bus: Bus, blobs: Blobs, clock: FakeClock, allowed: Sequence[AllowedModel] = ()
) -> AsyncGenerator[Caller]:
    await bring_up(url, MIGRATIONS)
    store = Store(open_engine(url), tables_of)
    base_models = BaseModels(allowed, BlobIntake(blobs, store))
    jobs = SucceededJobs(Registrar(blobs, clock, new_uid))
    consumer = Consumer(bus, store, DURABLE, [SUBJECT], jobs.handle, first_retry_s=TICK_S)
    models = Models(store, blobs, clock, new_uid)
    service = Service(
        "anneal.registry.v1.RegistryService",
        add_RegistryServiceServicer_to_server,
        RegistryServicer(base_models, models, PageTokens(b"p" * 32)),
    )
    settings = ServerSettings(drain_s=0, grace_s=0.5)
    background = [consumer.run, base_models.run]
    async with (
        running(settings, [service], {"database": store.ping}, background) as address,
        open_channel(address) as channel,
    ):
        yield Caller(RegistryServiceStub(channel), bus, blobs)
    await store.close()
