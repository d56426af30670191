"""The trainer's control plane served in-process, with nodes that run real engines on tiny-base."""

import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anneal.trainer.v1.tuning_job_service_pb2_grpc import TuningJobServiceStub
from anneal.transport import open_channel
from services.common.blobs import ObstoreBlobs
from services.common.bus import Bus
from services.common.bus_memory import MemoryBus
from services.common.directories import Directories
from services.common.paging import PageTokens
from services.common.server import ServerSettings, running
from services.common.store import Store, open_engine
from services.trainer.control.__main__ import MIGRATIONS
from services.trainer.control.adapters.sql import trainer_tables
from services.trainer.control.domain.drafts import Specification
from services.trainer.control.domain.fleet import Fleet
from services.trainer.control.domain.job import ManifestSource
from services.trainer.control.domain.names import BaseModelName, DatasetVersionName
from services.trainer.control.domain.node_leases import LeasePolicy
from services.trainer.control.domain.ports import BaseModel, DatasetVersion
from services.trainer.control.domain.signals import Signals
from services.trainer.control.wiring import Parts, control
from services.trainer.node import backends
from tests.contract.trainer_node.world import (
    ADAPTER,
    SEED,
    TRAINING,
    Material,
    Results,
    World,
)
from tests.schemas import bring_up

EXAMPLES = Path(__file__).parents[3] / "examples"
POLICY = LeasePolicy(lease_s=6, claim_poll_s=0.1, reap_every_s=0.2, retry_delay_s=0)
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("train", pa.bool_())])


class OneDataset:
    def __init__(self, digest: str) -> None:
        self._digest = digest

    async def resolve(self, name: DatasetVersionName) -> DatasetVersion | None:
        return DatasetVersion(DatasetVersionName("default", "support", "v-1"), self._digest, 80)


class OneBaseModel:
    def __init__(self, digest: str) -> None:
        self._digest = digest

    async def find(self, name: BaseModelName) -> BaseModel | None:
        return BaseModel(name, self._digest, ManifestSource(self._digest))


@pytest.fixture(scope="session")
def dataset_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 of the support desk's examples, as the dataset service keeps them."""
    lines = (EXAMPLES / "support.jsonl").read_text().splitlines()[:80]
    rows = [
        [{**turn, "train": turn["role"] == "assistant"} for turn in json.loads(line)["messages"]]
        for line in lines
    ]
    path = tmp_path_factory.mktemp("dataset") / "examples.parquet"
    pq.write_table(pa.table({"messages": pa.array(rows, pa.list_(MESSAGE))}), path)
    return path


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
async def material(file_blobs: ObstoreBlobs, dataset_file: Path, cache_dir: Path) -> Material:
    directories = Directories(file_blobs, cache_dir)
    base_model = await directories.store(EXAMPLES / "tiny-base", {"base_model": "tiny-base"})
    dataset = await file_blobs.put_file(dataset_file)
    return Material(file_blobs, base_model.manifest_digest, dataset.digest, cache_dir)


Serve = Callable[[Bus], AbstractAsyncContextManager[World]]


@pytest.fixture
def serve(sqlite_url: str, material: Material, tmp_path: Path) -> Serve:
    """Serves the control plane on a bus."""

    @asynccontextmanager
    async def served(bus: Bus) -> AsyncGenerator[World]:
        await bring_up(sqlite_url, MIGRATIONS)
        signals = Signals()
        store = Store(open_engine(sqlite_url), trainer_tables(signals))
        results = Results()
        catalogs = Specification(
            OneDataset(material.dataset),
            OneBaseModel(material.base_model),
            results,
            Fleet(store),
        )
        parts = Parts(store, bus, material.blobs, signals, catalogs, PageTokens(b"s" * 16))
        whole = control(parts, POLICY, watch_poll_s=0.2)
        settings = ServerSettings(drain_s=0, grace_s=0.5)
        probes = {"database": store.ping}
        try:
            async with (
                running(settings, whole.services, probes, whole.background) as address,
                open_channel(address) as channel,
            ):
                jobs = TuningJobServiceStub(channel)
                yield World(address, jobs, bus, material, tmp_path, results, store)
        finally:
            await store.close()

    return served


@pytest.fixture
async def world(serve: Serve, memory_bus: MemoryBus) -> AsyncGenerator[World]:
    async with serve(memory_bus) as served:
        yield served


@pytest.fixture
def quick_engines(quick_engine: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes start engines that are there at once."""
    monkeypatch.setattr(backends, "ENGINE", quick_engine)


@pytest.fixture(scope="session")
def undisturbed(dataset_file: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sha256 of the weights that the engine makes when it is run by hand, and left alone."""
    directory = tmp_path_factory.mktemp("undisturbed")
    job = {
        "job": "by hand",
        "seed": SEED,
        "base_model_dir": str(EXAMPLES / "tiny-base"),
        "dataset_file": str(dataset_file),
        "work_dir": str(directory),
        "resume_from": None,
        "method": {"kind": "lora", "rank": 4, "alpha": 16, "dropout": 0.1, "target_modules": []},
        "training": {
            "epochs": 3,
            "schedule": "cosine",
            "weight_decay": 0,
            "max_grad_norm": 1,
            "validation_fraction": 0.1,
            **TRAINING,
        },
        "threads": 1,
    }
    file = directory / "job.json"
    file.write_text(json.dumps(job))
    argv = (sys.executable, "-m", "services.trainer.engine", str(file))
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return hashlib.sha256((directory / "artifacts" / ADAPTER).read_bytes()).hexdigest()
