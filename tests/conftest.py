"""Fixtures that every test may use: real databases, buses and blob stores, each in a fresh state.

A parametrised fixture runs its test once against each implementation.
"""

import asyncio
import gc
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.common.blobs import Blobs, ObstoreBlobs
from services.common.bus import Bus
from services.common.bus_memory import MemoryBus
from services.common.bus_nats import NatsBus
from services.common.testing.clock import FakeClock
from services.common.testing.nats import NatsServer, nats_server
from services.common.testing.postgres import Postgres, postgres
from services.common.testing.s3 import make_bucket, s3_server
from tests import engines

NO_IDLE_WORK = {
    "ANNEAL_SELF_TEST_LIMIT_S": "0",
    "ANNEAL_SPEED_LIMIT_S": "0",
    "ANNEAL_WARM_ENGINES": "0",
}
"""The environment of a node that leaves the machine to the tests."""


def pytest_configure() -> None:
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of faults wait most of their time: they are spread among those that compute, so that
    no processor is idle while two files of them run side by side. Short ones are left to the end,
    that all workers come to it together."""
    files = [*dict.fromkeys(item.path for item in items)]
    waiting = [path for path in files if path.parent.name == "faults"]
    computing = [path for path in files if path.parent.name != "faults"]
    place = {path: number / len(computing) for number, path in enumerate(computing)}
    place |= {path: 0.8 * number / len(waiting) for number, path in enumerate(waiting)}
    items.sort(key=lambda item: place[item.path])


def pytest_collection_finish() -> None:
    """What is imported by now stays, and the collector need not look at it again and again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def denormal_numbers() -> Generator[None]:
    """A run has its thread count them as 0; hypothesis draws them."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def postgres_server() -> Generator[Postgres]:
    directory = Path(tempfile.mkdtemp(prefix="anneal-pg-"))  # a socket's path must be short
    with postgres(directory / "data") as server:
        asyncio.run(server.forgo_durability())
        yield server
    shutil.rmtree(directory)


@pytest.fixture
async def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'rows.db'}"


@pytest.fixture
async def postgresql_url(postgres_server: Postgres) -> AsyncGenerator[str]:
    url = await postgres_server.empty_database()
    yield url
    await postgres_server.give_back(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def nats(tmp_path: Path) -> Generator[NatsServer]:
    """A running server of this test's own, which it may kill and start again."""
    with nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def nats_url(nats: NatsServer) -> str:
    return nats.url


@pytest.fixture
async def memory_bus() -> MemoryBus:
    return MemoryBus()


@pytest.fixture
async def nats_bus(nats_url: str) -> AsyncGenerator[NatsBus]:
    bus = await NatsBus.connect(nats_url, name="test")
    yield bus
    await bus.close()


@pytest.fixture(params=["memory", "nats"])
def bus(request: pytest.FixtureRequest) -> Bus:
    """An empty bus of each kind."""
    return request.getfixturevalue(f"{request.param}_bus")


@pytest.fixture(scope="session")
def s3() -> Generator[Any]:
    with s3_server() as config:
        yield config


@pytest.fixture
def memory_blobs() -> Blobs:
    return ObstoreBlobs.open("memory://")


@pytest.fixture
def file_blobs(tmp_path: Path) -> Blobs:
    return ObstoreBlobs.open((tmp_path / "blobs").as_uri())


@pytest.fixture
def s3_blobs(s3: Any) -> Blobs:
    bucket = f"blobs-{secrets.token_hex(6)}"
    make_bucket(s3, bucket)
    return ObstoreBlobs.open(f"s3://{bucket}/some/prefix", s3=s3)


@pytest.fixture(params=["memory", "file", "s3"])
def blobs(request: pytest.FixtureRequest) -> Blobs:
    """An empty blob store of each kind."""
    return request.getfixturevalue(f"{request.param}_blobs")


@pytest.fixture(scope="session")
def quick_engine() -> Generator[Sequence[str]]:
    """What `python -m services.trainer.engine` is to whoever starts it, but for the seconds that
    its imports take: see tests/faults/engine_forks.py."""
    directory = Path(tempfile.mkdtemp(prefix="anneal-engines-"))  # a socket's path must be short
    with engines.forks(directory / "socket") as program:
        yield program
    shutil.rmtree(directory)
