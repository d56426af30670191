"""The control plane served in-process on a real database, reached through its stubs."""

import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from anneal.trainer.v1.node_lease_service_pb2_grpc import NodeLeaseServiceStub
from anneal.trainer.v1.tuning_job_service_pb2_grpc import TuningJobServiceStub
from anneal.transport import open_channel
from services.common.blobs import Blobs
from services.common.bus import Bus
from services.common.bus_memory import MemoryBus
from services.common.paging import PageTokens
from services.common.server import ServerSettings, running
from services.common.store import Store, open_engine
from services.trainer.control.__main__ import MIGRATIONS
from services.trainer.control.adapters.sql import TrainerTables, trainer_tables
from services.trainer.control.domain.drafts import Specification
from services.trainer.control.domain.fleet import Fleet
from services.trainer.control.domain.node_leases import LeasePolicy
from services.trainer.control.domain.signals import Signals
from services.trainer.control.wiring import Parts, control
from tests.contract.trainer_control.sweep_player import Player, playing
from tests.contract.trainer_control.world import (
    FAST,
    World,
    known_base_models,
    known_datasets,
    known_model_versions,
)
from tests.schemas import bring_up


@asynccontextmanager
async def closing(store: Store[TrainerTables]) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await store.close()


Serve = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
async def serve(database_url: str, memory_bus: MemoryBus, memory_blobs: Blobs) -> Serve:
    """Serves the control plane, once or several times: each is a replica on the same database."""
    await bring_up(database_url, MIGRATIONS)

    @asynccontextmanager
    async def served(
        policy: LeasePolicy = FAST, watch_poll_s: float = 0.2, bus: Bus = memory_bus
    ) -> AsyncGenerator[World]:
        signals = Signals()
        store = Store(open_engine(database_url), trainer_tables(signals))
        datasets = known_datasets()
        specification = Specification(
            datasets, known_base_models(), known_model_versions(), Fleet(store)
        )
        tokens = PageTokens(b"s" * 16)
        parts = Parts(store, bus, memory_blobs, signals, specification, tokens)
        whole = control(parts, policy, watch_poll_s)
        settings = ServerSettings(drain_s=0, grace_s=0.5)
        probes = {"database": store.ping}
        async with (
            closing(store),
            running(settings, whole.services, probes, whole.background) as address,
            open_channel(address) as channel,
        ):
            yield World(
                address,
                TuningJobServiceStub(channel),
                NodeLeaseServiceStub(channel),
                bus,
                store,
                memory_blobs,
                datasets,
            )

    return served


@pytest.fixture
async def world(serve: Serve) -> AsyncGenerator[World]:
    async with serve() as served:
        yield served


@pytest.fixture
async def player(world: World) -> AsyncGenerator[Player]:
    async with playing(world) as served:
        yield served


@pytest.fixture
def request_id() -> str:
    return str(uuid.uuid4())
