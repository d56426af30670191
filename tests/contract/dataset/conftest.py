"""A running DatasetService on each database, with blobs and spool files that can be looked at."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from anneal.transport import open_channel
from services.common.auth import new_key
from services.common.blobs import ObstoreBlobs
from services.common.clock import SystemClock
from services.common.paging import PageTokens
from services.common.server import ServerSettings, running
from services.common.store import Store, open_engine
from services.dataset.__main__ import DETAIL_ENCODERS, MIGRATIONS, dataset_service
from services.dataset.adapters.registry import NoRegistry
from services.dataset.adapters.sql import dataset_tables
from services.dataset.domain.masks import BaseModels
from services.dataset.domain.uploads import UploadLimits
from tests.contract.dataset.caller import Caller
from tests.schemas import bring_up

MAX_UPLOAD_BYTES = 32 * 1024 * 1024


@pytest.fixture
async def caller(database_url: str, tmp_path: Path) -> AsyncGenerator[Caller]:
    """A caller that may do everything."""
    async with serving(database_url, tmp_path) as caller:
        yield caller


@pytest.fixture
async def reader(sqlite_url: str, tmp_path: Path) -> AsyncGenerator[Caller]:
    """A caller that may read the datasets of the project `default`, and nothing else."""
    text, snippet = new_key("reader", permissions=["datasets.read"], projects=["default"])
    keys_file = tmp_path / "keys.toml"
    keys_file.write_text(snippet)
    async with serving(sqlite_url, tmp_path, keys_file, text) as caller:
        yield caller


@asynccontextmanager
async def serving(
    database_url: str,
    tmp_path: Path,
    keys_file: Path | None = None,
    api_key: str | None = None,
    base_models: BaseModels | None = None,
) -> AsyncGenerator[Caller]:
    blobs_dir, spool_dir = tmp_path / "blobs", tmp_path / "spool"
    spool_dir.mkdir()
    blobs = ObstoreBlobs.open(blobs_dir.as_uri())
    await bring_up(database_url, MIGRATIONS)
    store = Store(open_engine(database_url), dataset_tables)
    limits = UploadLimits(MAX_UPLOAD_BYTES, spool_dir)
    tokens, models = PageTokens(b"s" * 16), base_models or NoRegistry()
    service = dataset_service(store, blobs, tokens, limits, SystemClock(), models)
    async with (
        running(
            ServerSettings(keys_file=keys_file, drain_s=0),
            [service],
            {"database": store.ping, "blobs": blobs.ping},
            detail_encoders=DETAIL_ENCODERS,
        ) as address,
        open_channel(address, api_key=api_key) as channel,
    ):
        yield Caller(DatasetServiceStub(channel), address, store, blobs_dir, spool_dir)
    await store.close()
