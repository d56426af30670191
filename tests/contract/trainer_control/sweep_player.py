"""A player of callers and nodes of sweeps."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlmodel import select

from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_sweep_service_pb2 as service_pb
from anneal.trainer.v1.tuning_job_pb2 import TrainingParameters, TuningJob
from anneal.trainer.v1.tuning_sweep_pb2 import TuningSweep
from anneal.trainer.v1.tuning_sweep_service_pb2_grpc import TuningSweepServiceStub
from anneal.transport import open_channel
from services.common.tables import OutboxRow
from tests.contract.trainer_control.world import ADAPTER, PARENT, World


@dataclass
class Player:
    """Plays callers and nodes of sweeps."""

    world: World
    rpc: Any

    def request(self, sweep_id: str = "", **fields: Any) -> service_pb.SweepTuningJobRequest:
        beside = {
            name: fields.pop(name) for name in ("request_id", "validate_only") if name in fields
        }
        job = fields.pop("tuning_job", None) or self.job()
        return service_pb.SweepTuningJobRequest(
            parent=PARENT,
            tuning_sweep_id=sweep_id,
            tuning_sweep=TuningSweep(tuning_job=job, **fields),
            **beside,
        )

    def job(self, max_steps: int = 90, **fields: Any) -> TuningJob:
        training = TrainingParameters(max_steps=max_steps, learning_rate=0.001)
        return self.world.draft(**({"training": training} | fields))

    async def create(self, sweep_id: str = "", **fields: Any) -> TuningSweep:
        return await self.rpc.SweepTuningJob(self.request(sweep_id, **fields))

    async def get(self, name: str) -> TuningSweep:
        return await self.rpc.GetTuningSweep(service_pb.GetTuningSweepRequest(name=name))

    async def cancel(self, name: str, etag: str = "") -> TuningSweep:
        return await self.rpc.CancelTuningSweep(
            service_pb.CancelTuningSweepRequest(name=name, etag=etag)
        )

    async def train(self, loss_of: Callable[[TuningJob], float | None]) -> list[TuningJob]:
        """Trains all that waits, until nothing does; None: the training diverges."""
        trained: list[TuningJob] = []
        while (lease := await self.world.claim()) is not None:
            trained.append(await self.end(lease.job, loss_of(lease.job)))
        return trained

    async def end(self, job: TuningJob, loss: float | None, digest: str = ADAPTER) -> TuningJob:
        if loss is None:
            return await self.world.fail(job, "DIVERGED", "loss nan at step 3")
        return await self.world.complete(job, digest, validation_loss=loss)

    async def claimed(self, count: int) -> list[TuningJob]:
        leases = [await self.world.claim() for _ in range(count)]
        return [lease.job for lease in leases if lease is not None]

    async def registered(self) -> list[job_pb.TuningJobSucceeded]:
        """What the registry is told."""
        async with self.world.store.reading() as tables:
            rows = await tables.session.exec(select(OutboxRow))
            told = [row for row in rows if row.subject == "anneal.jobs.succeeded"]
        return [job_pb.TuningJobSucceeded.FromString(row.payload) for row in told]


@asynccontextmanager
async def playing(world: World) -> AsyncGenerator[Player]:
    async with open_channel(world.address) as channel:
        yield Player(world, TuningSweepServiceStub(channel))


def rate_of(job: TuningJob) -> float:
    return job.training.learning_rate


def shape(sweep: TuningSweep) -> list[tuple[int, int]]:
    """The rung and the steps of every trial."""
    return [(trial.rung, trial.steps) for trial in sweep.trials]
