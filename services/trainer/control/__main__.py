"""The trainer's control plane. Composition root."""

import gc
from pathlib import Path

from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from services.common import logs, process, settings
from services.common.blobs import ObstoreBlobs
from services.common.bus_nats import NatsBus
from services.common.channels import open_channel
from services.common.migrations import upgrade
from services.common.server import serve
from services.common.store import Store, open_engine
from services.trainer.control.adapters.catalogs import (
    GrpcBaseModels,
    GrpcDatasets,
    GrpcModelVersions,
)
from services.trainer.control.adapters.sql import trainer_tables
from services.trainer.control.config import ControlConfig
from services.trainer.control.domain.drafts import Specification
from services.trainer.control.domain.fleet import Fleet
from services.trainer.control.domain.signals import Signals
from services.trainer.control.wiring import Parts, control

MIGRATIONS = Path(__file__).parent / "migrations"


async def run() -> None:
    config = settings.read(ControlConfig)
    logs.configure(config.log_level)
    tokens = settings.page_tokens(config.page_secret)
    await upgrade(config.database_url, MIGRATIONS)
    signals = Signals()
    store = Store(open_engine(config.database_url), trainer_tables(signals))
    blobs = ObstoreBlobs.open(config.blobs_url)
    name, replicas = "trainer-control", config.nats_replicas
    bus = await NatsBus.connect(config.nats_url, name=name, replicas=replicas)
    key = config.api_key or None
    dataset = open_channel(config.dataset_address, tls=config.tls, api_key=key)
    registry = open_channel(config.registry_address, tls=config.tls, api_key=key)
    models = RegistryServiceStub(registry)
    specification = Specification(
        GrpcDatasets(DatasetServiceStub(dataset)),
        GrpcBaseModels(models),
        GrpcModelVersions(models),
        Fleet(store),
    )
    parts = Parts(store, bus, blobs, signals, specification, tokens)
    whole = control(parts, config.leases, config.watch_poll_s)
    probes = {"database": store.ping, "bus": bus.ping}
    gc.freeze()  # what is there by now stays: a collection took 80 ms of some claim's time
    try:
        await serve(config.server, whole.services, probes, whole.background)
    finally:
        await registry.close()
        await dataset.close()
        await bus.close()
        await store.close()


if __name__ == "__main__":
    process.main(run)
