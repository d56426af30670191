"""The program itself, with SQLite and a real bus."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from anneal.trainer.v1.tuning_job_service_pb2_grpc import TuningJobServiceStub
from anneal.transport import open_channel
from services.common.testing.free_port import free_port


@asynccontextmanager
async def program(
    tmp_path: Path, nats_url: str, address: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    environment = {
        "ANNEAL_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'trainer.db'}",
        "ANNEAL_BLOBS_URL": (tmp_path / "blobs").as_uri(),
        "ANNEAL_NATS_URL": nats_url,
        "ANNEAL_SERVER_LISTEN": address,
        "ANNEAL_PAGE_SECRET": "00" * 16,
        "ANNEAL_LEASES_LEASE_S": "12",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.trainer.control", env=os.environ | environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_program_serves_and_stops_when_told(
    tmp_path: Path, nats_url: str, number: signal.Signals
) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with (
        program(tmp_path, nats_url, address) as process,
        open_channel(address) as channel,
        asyncio.timeout(30),
    ):
        await serving(HealthStub(channel))
        jobs = await TuningJobServiceStub(channel).ListTuningJobs(
            service_pb.ListTuningJobsRequest(parent="projects/default")
        )
        assert not jobs.tuning_jobs

        process.send_signal(number)

        assert await process.wait() == 0


async def serving(health: HealthStub) -> None:
    request = health_pb2.HealthCheckRequest(service="anneal.trainer.v1.NodeLeaseService")
    while True:
        answer = await health.Check(request, wait_for_ready=True)
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return
        await asyncio.sleep(0.05)
