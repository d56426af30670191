"""The trainer node. Composition root."""

import asyncio
import signal
from collections.abc import Sequence

import grpc.aio
import structlog

from anneal.trainer.v1.node_lease_service_pb2_grpc import NodeLeaseServiceStub
from anneal.transport import Tls
from services.common import logs, process, settings
from services.common.blobs import Blobs, ObstoreBlobs
from services.common.bus import Bus
from services.common.bus_nats import NatsBus
from services.common.channels import open_channel
from services.common.clock import SystemClock
from services.common.directories import Directories
from services.common.ids import new_uid
from services.trainer.node.agent import Agent
from services.trainer.node.attempt import Attempt, AttemptSettings
from services.trainer.node.backends import BUILTIN, Backends
from services.trainer.node.capabilities import About, SelfTest
from services.trainer.node.config import NodeConfig
from services.trainer.node.device import Host
from services.trainer.node.engines import WarmEngines, cold, launched
from services.trainer.node.lease import Lease
from services.trainer.node.leases_grpc import NODE_CHANNEL_OPTIONS, GrpcLeases
from services.trainer.node.room import Room, environment_of, visible_gpus
from services.trainer.node.telemetry import Telemetry
from services.trainer.node.work_dir import sole_use

_log = structlog.get_logger()


async def run() -> None:
    config = settings.read(NodeConfig)
    logs.configure(config.log_level)
    tls = Tls(ca_file=config.tls_ca) if config.tls_ca else None
    key = config.api_key or None
    channel = open_channel(
        config.trainer_address, tls=tls, api_key=key, options=NODE_CHANNEL_OPTIONS
    )
    name, replicas = config.node_name, config.nats_replicas
    bus = await NatsBus.connect(config.nats_url, name=name, replicas=replicas)
    agent = make_agent(config, channel, bus, ObstoreBlobs.open(config.blobs_url))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, agent.stop)
    try:
        with sole_use(config.work_dir):
            _log.info("node.ready", node=config.node_name, trainer=config.trainer_address)
            await agent.run()
    finally:
        await bus.close()
        await channel.close()


def make_agent(config: NodeConfig, channel: grpc.aio.Channel, bus: Bus, blobs: Blobs) -> Agent:
    """A node on these parts."""
    threads = config.engine_threads * config.engine_processes
    host = Host(threads, config.speed_limit_s)
    backends = Backends(config.unsloth_python, config.axolotl_python)
    gpus = visible_gpus()
    about = About(
        labels=config.labels_by_key(),
        device_count=max(1, len(gpus)),
        engine_count=config.engines,
        self_test=SelfTest(threads, config.self_test_limit_s),
    )
    stub, installed = NodeLeaseServiceStub(channel), backends.installed()
    leases = GrpcLeases(stub, config.node_name, new_uid, host, installed, about)
    limit_bytes = round(config.cache_limit_gb * 10**9)
    directories = Directories(blobs, config.cache_dir, limit_bytes)
    # CUDA reads which GPUs there are when torch is imported: too early for one of several.
    warm_engines = config.warm_engines if len(gpus) <= 1 else 0
    warm = WarmEngines(backends.program(BUILTIN), config.engine_threads, warm_engines)

    def start_attempt(lease: Lease, gpus: Sequence[str]) -> Attempt:
        telemetry = Telemetry(bus, SystemClock(), lease.job, lease.attempt)
        environment = environment_of(gpus)
        together = lease.backend == BUILTIN and len(gpus) > 1
        if together:
            start_engine = launched(len(gpus), environment)
        elif lease.backend == BUILTIN:
            start_engine = warm.starter(environment)
        else:
            start_engine = cold(backends.program(lease.backend), environment)
        settings = AttemptSettings(
            work_dir=config.work_dir,
            threads=config.engine_threads,
            processes=len(gpus) if together else config.engine_processes,
            grace_s=config.engine_grace_s,
            storage_patience_s=config.storage_patience_s,
            start_engine=start_engine,
            patience=config.patience(lease.backend),
        )
        return Attempt(lease, leases, directories.for_one_user(), telemetry, settings)

    room = Room(config.engines, gpus)
    return Agent(leases, start_attempt, config.claim_wait_s, room, warm)


if __name__ == "__main__":
    process.main(run)
