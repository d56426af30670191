"""The trainer node. Composition root."""

import asyncio
import signal
from dataclasses import replace

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
from services.trainer.node.backends import Backends
from services.trainer.node.config import NodeConfig
from services.trainer.node.device import Host
from services.trainer.node.lease import Lease
from services.trainer.node.leases_grpc import GrpcLeases
from services.trainer.node.telemetry import Telemetry
from services.trainer.node.work_dir import sole_use

_log = structlog.get_logger()


async def run() -> None:
    config = settings.read(NodeConfig)
    logs.configure(config.log_level)
    tls = Tls(ca_file=config.tls_ca) if config.tls_ca else None
    channel = open_channel(config.trainer_address, tls=tls, api_key=config.api_key or None)
    bus = await NatsBus.connect(config.nats_url, name=config.node_name)
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
    host = Host(config.engine_threads * config.engine_processes, config.speed_limit_s)
    backends = Backends(config.unsloth_python, config.axolotl_python)
    leases = GrpcLeases(
        NodeLeaseServiceStub(channel), config.node_name, new_uid, host, backends.installed()
    )
    directories = Directories(blobs, config.cache_dir)
    attempt_settings = AttemptSettings(
        work_dir=config.work_dir,
        threads=config.engine_threads,
        processes=config.engine_processes,
        grace_s=config.engine_grace_s,
        storage_patience_s=config.storage_patience_s,
    )

    def start_attempt(lease: Lease) -> Attempt:
        telemetry = Telemetry(bus, SystemClock(), lease.job, lease.attempt)
        program = replace(attempt_settings, engine=backends.program(lease.backend))
        return Attempt(lease, leases, directories, telemetry, program)

    return Agent(leases, start_attempt, config.claim_wait_s)


if __name__ == "__main__":
    process.main(run)
