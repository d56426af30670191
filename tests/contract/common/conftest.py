"""The little service of notes.py on each database, and a bus on a cluster."""

import asyncio
from collections.abc import AsyncGenerator, Generator

import nats
import pytest

from services.common.bus import Bus
from services.common.bus_nats import NatsBus
from services.common.store import Store, open_engine
from services.common.testing.nats import NatsCluster, nats_cluster
from tests.contract.common.notes import Row, Tables, tables


@pytest.fixture
async def store(database_url: str) -> AsyncGenerator[Store[Tables]]:
    """A store with empty tables, on each database."""
    engine = open_engine(database_url)
    store = Store(engine, tables)
    async with engine.begin() as connection:
        await connection.run_sync(Row.metadata.create_all)
    yield store
    await store.close()


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsCluster]:
    with nats_cluster(tmp_path_factory.mktemp("cluster"), "secret") as cluster:
        yield cluster


@pytest.fixture
async def cluster(running_cluster: NatsCluster) -> AsyncGenerator[NatsCluster]:
    """Three servers that work together and hold no stream. A test may kill one."""
    yield running_cluster
    await asyncio.to_thread(running_cluster.start)
    client = await nats.connect(running_cluster.url.split(","))
    for stream in await client.jetstream().streams_info():
        await client.jetstream().delete_stream(str(stream.config.name))
    await client.close()


@pytest.fixture
async def cluster_bus(cluster: NatsCluster) -> AsyncGenerator[NatsBus]:
    bus = await NatsBus.connect(cluster.url, name="test", replicas=3)
    yield bus
    await bus.close()


@pytest.fixture(params=["memory", "nats", "cluster"])
def bus(request: pytest.FixtureRequest) -> Bus:
    """An empty bus of each kind."""
    return request.getfixturevalue(f"{request.param}_bus")
