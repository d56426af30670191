"""The registry. Composition root."""

from functools import partial
from pathlib import Path

from anneal.registry.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server
from services.common import logs, process, settings
from services.common.blobs import ObstoreBlobs
from services.common.bus_nats import NatsBus
from services.common.clock import SystemClock
from services.common.ids import new_uid
from services.common.inbox import Consumer
from services.common.leftovers import removing_leftovers
from services.common.migrations import upgrade
from services.common.retention import sweeping
from services.common.server import Service, serve
from services.common.store import Store, open_engine
from services.registry.adapters.allow_list import read_allow_list
from services.registry.adapters.events import DURABLE, SUBJECT, SucceededJobs
from services.registry.adapters.intake import BlobIntake
from services.registry.adapters.sql import tables_of
from services.registry.config import RegistryConfig
from services.registry.domain.base_models import BaseModels
from services.registry.domain.catalog import Models
from services.registry.domain.registrar import Registrar
from services.registry.servicer import RegistryServicer

MIGRATIONS = Path(__file__).parent / "migrations"


async def run() -> None:
    config = settings.read(RegistryConfig)
    logs.configure(config.log_level)
    allowed = read_allow_list(config.base_models) if config.base_models else ()
    blobs = ObstoreBlobs.open(config.blobs_url)
    await upgrade(config.database_url, MIGRATIONS)
    store = Store(open_engine(config.database_url), tables_of)
    bus = await NatsBus.connect(config.nats_url, name="registry", replicas=config.nats_replicas)
    clock = SystemClock()
    base_models = BaseModels(allowed, BlobIntake(blobs, store))
    jobs = SucceededJobs(Registrar(blobs, clock, new_uid))
    consumer = Consumer(bus, store, DURABLE, [SUBJECT], jobs.handle)
    models = Models(store, blobs, clock, new_uid)
    servicer = RegistryServicer(base_models, models, settings.page_tokens(config.page_secret))
    service = Service(
        "anneal.registry.v1.RegistryService", add_RegistryServiceServicer_to_server, servicer
    )
    probes = {"database": store.ping, "bus": bus.ping, "blobs": blobs.ping}
    background = [
        consumer.run,
        base_models.run,
        partial(sweeping, store),
        partial(removing_leftovers, blobs),
    ]
    try:
        await serve(config.server, [service], probes, background)
    finally:
        await bus.close()
        await store.close()


if __name__ == "__main__":
    process.main(run)
