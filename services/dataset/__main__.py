"""The dataset service. Composition root."""

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from anneal.dataset.v1.dataset_service_pb2_grpc import add_DatasetServiceServicer_to_server
from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from services.common import logs, process, settings
from services.common.blobs import ObstoreBlobs
from services.common.channels import open_channel
from services.common.clock import Clock, SystemClock
from services.common.ids import new_uid
from services.common.leftovers import removing_leftovers
from services.common.migrations import upgrade
from services.common.paging import PageTokens
from services.common.retention import sweeping
from services.common.server import Service, serve
from services.common.store import Store, open_engine
from services.dataset import translation
from services.dataset.adapters.encoders import BlobEncoders
from services.dataset.adapters.registry import NoRegistry, RegistryBaseModels
from services.dataset.adapters.sql import DatasetTables, dataset_tables
from services.dataset.config import DatasetConfig
from services.dataset.domain.contents import Contents
from services.dataset.domain.datasets import Datasets
from services.dataset.domain.errors import Rejection
from services.dataset.domain.masks import BaseModels, Masks
from services.dataset.domain.uploads import UploadLimits, Uploads
from services.dataset.servicer import DatasetServicer

MIGRATIONS = Path(__file__).parent / "migrations"
DETAIL_ENCODERS = {Rejection: translation.rejection_message}


async def run() -> None:
    config = settings.read(DatasetConfig)
    logs.configure(config.log_level)
    tokens = settings.page_tokens(config.page_secret)
    limits = UploadLimits(config.max_upload_bytes, config.spool_dir)
    blobs = ObstoreBlobs.open(config.blobs_url)
    await upgrade(config.database_url, MIGRATIONS)
    store = Store(open_engine(config.database_url), dataset_tables)
    probes = {"database": store.ping, "blobs": blobs.ping}
    background = [partial(sweeping, store), partial(removing_leftovers, blobs)]
    async with AsyncExitStack() as opened:
        opened.push_async_callback(store.close)
        base_models = await _base_models(config, opened)
        service = dataset_service(store, blobs, tokens, limits, SystemClock(), base_models)
        await serve(config.server, [service], probes, background, detail_encoders=DETAIL_ENCODERS)


async def _base_models(config: DatasetConfig, opened: AsyncExitStack) -> BaseModels:
    if not config.registry_address:
        return NoRegistry()
    channel = open_channel(config.registry_address, tls=config.tls, api_key=config.api_key or None)
    await opened.enter_async_context(channel)
    return RegistryBaseModels(RegistryServiceStub(channel))


def dataset_service(
    store: Store[DatasetTables],
    blobs: ObstoreBlobs,
    tokens: PageTokens,
    limits: UploadLimits,
    clock: Clock,
    base_models: BaseModels,
) -> Service:
    """The service on these parts."""
    contents = Contents(store, blobs, tokens)
    encoders = BlobEncoders(blobs, limits.spool_dir)
    servicer = DatasetServicer(
        Datasets(store, tokens),
        Uploads(store, blobs, clock, new_uid, limits),
        contents,
        Masks(contents, base_models, encoders, tokens),
    )
    return Service(
        "anneal.dataset.v1.DatasetService", add_DatasetServiceServicer_to_server, servicer
    )


if __name__ == "__main__":
    process.main(run)
