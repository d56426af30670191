"""GetTuningJob, calls a second, beside a bare echo server: `python -m benchmarks.get_job`."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio

from anneal import Client
from anneal.trainer.v1.tuning_job_service_pb2 import GetTuningJobRequest
from anneal.trainer.v1.tuning_job_service_pb2_grpc import TuningJobServiceStub
from benchmarks import bare_server
from benchmarks.rounds import print_figures, take_turns
from benchmarks.servers import bare_channel, platform
from services.common.channels import open_channel

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "support.jsonl"
CONCURRENCY = 16
CALLS = 2_000
ROUNDS = 7


async def calls_per_second(call: Callable[[], Awaitable[object]]) -> float:
    async def caller() -> None:
        for _ in range(CALLS // CONCURRENCY):
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
    return CALLS / (time.perf_counter() - began)


async def measure(trainer_address: str, job: str) -> None:
    async with bare_channel() as bare, open_channel(trainer_address) as trainer:
        stub = TuningJobServiceStub(trainer)
        request = GetTuningJobRequest(name=job)
        payload = (await stub.GetTuningJob(request)).SerializeToString()
        echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = bare.unary_unary(bare_server.ECHO)
        figures = await take_turns(
            {
                "bare echo": lambda: calls_per_second(lambda: echo(payload)),
                "GetTuningJob": lambda: calls_per_second(lambda: stub.GetTuningJob(request)),
            },
            "calls/s",
            ROUNDS,
        )
    print_figures(f"GetTuningJob, {CONCURRENCY} callers", figures, "bare echo")


def main() -> None:
    with platform() as running, Client(running.addresses) as client:
        version = client.datasets.upload(EXAMPLES, "bench")
        job = client.jobs.create(version.name, "tiny-base")
        client.jobs.cancel(job.name)
        client.jobs.wait(job.name)
        asyncio.run(measure(running.addresses.trainer, job.name))


if __name__ == "__main__":
    main()
