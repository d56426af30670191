"""The dataset service. Composition root."""

from functools import partial
from pathlib import Path

from anneal.dataset.v1.dataset_service_pb2_grpc import add_DatasetServiceServicer_to_server
from services.common import logs, process, settings
from services.common.blobs import ObstoreBlobs
from services.common.clock import Clock, SystemClock
from services.common.ids import new_uid
from services.common.leftovers import removing_leftovers
from services.common.migrations import upgrade
from services.common.paging import PageTokens
from services.common.retention import sweeping
from services.common.server import Service, serve
from services.common.store import Store, open_engine
from services.dataset import translation
from services.dataset.adapters.sql import DatasetTables, dataset_tables
from services.dataset.config import DatasetConfig
from services.dataset.domain.contents import Contents
from services.dataset.domain.datasets import Datasets
from services.dataset.domain.errors import Rejection
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
    service = dataset_service(store, blobs, tokens, limits, SystemClock())
    probes = {"database": store.ping, "blobs": blobs.ping}
    background = [partial(sweeping, store), partial(removing_leftovers, blobs)]
    try:
        await serve(config.server, [service], probes, background, detail_encoders=DETAIL_ENCODERS)
    finally:
        await store.close()


def dataset_service(
    store: Store[DatasetTables],
    blobs: ObstoreBlobs,
    tokens: PageTokens,
    limits: UploadLimits,
    clock: Clock,
) -> Service:
    """The service on these parts."""
    servicer = DatasetServicer(
        Datasets(store, tokens),
        Uploads(store, blobs, clock, new_uid, limits),
        Contents(store, blobs, tokens),
    )
    return Service(
        "anneal.dataset.v1.DatasetService", add_DatasetServiceServicer_to_server, servicer
    )


if __name__ == "__main__":
    process.main(run)
