"""The A/B test service. Composition root."""

import secrets
from pathlib import Path

from anneal.abtest.v1.ab_test_service_pb2_grpc import add_ABTestServiceServicer_to_server
from anneal.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from anneal.transport import Tls
from services.abtest.adapters.inference import GrpcInference
from services.abtest.adapters.registry import RegistryModels
from services.abtest.adapters.sql import tables_of
from services.abtest.config import AbTestConfig
from services.abtest.domain.ballots import Ballots
from services.abtest.domain.experiments import Experiments
from services.abtest.domain.generation import Generator
from services.abtest.servicer import ABTestServicer
from services.common import logs, process, settings
from services.common.channels import open_channel
from services.common.clock import SystemClock
from services.common.ids import new_uid, random_id
from services.common.migrations import upgrade
from services.common.retention import sweeping
from services.common.server import Service, serve
from services.common.store import Store, open_engine

MIGRATIONS = Path(__file__).parent / "migrations"
SECRET_BYTES = 32


async def run() -> None:
    config = settings.read(AbTestConfig)
    logs.configure(config.log_level)
    tls = Tls(ca_file=config.tls_ca) if config.tls_ca else None
    registry = open_channel(config.registry_address, tls=tls, api_key=config.api_key)
    inference = open_channel(config.inference_address, tls=tls, api_key=config.api_key)
    await upgrade(config.database_url, MIGRATIONS)
    store = Store(open_engine(config.database_url), tables_of)
    clock = SystemClock()
    models = RegistryModels(RegistryServiceStub(registry))
    experiments = Experiments(
        store, models, clock, lambda: random_id("experiment"), new_uid, new_secret
    )
    generator = Generator(store, GrpcInference(InferenceServiceStub(inference)), clock)
    store.on_commit(generator.wake)
    servicer = ABTestServicer(
        experiments, Ballots(store, clock), settings.page_tokens(config.page_secret)
    )
    service = Service(
        "anneal.abtest.v1.ABTestService", add_ABTestServiceServicer_to_server, servicer
    )
    try:
        await serve(
            config.server,
            [service],
            {"database": store.ping},
            [generator.run, lambda: sweeping(store)],
        )
    finally:
        await registry.close()
        await inference.close()
        await store.close()


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


if __name__ == "__main__":
    process.main(run)
