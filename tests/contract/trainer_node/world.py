"""A trainer whose nodes run in this process, and their engines as real processes."""

import asyncio
import hashlib
import os
import signal
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from sqlmodel import col, update

from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from anneal.transport import open_channel
from services.common.blobs import Blobs
from services.common.bus import Bus
from services.common.manifest import Manifest
from services.common.store import Store
from services.trainer.control.adapters.rows import spec_text
from services.trainer.control.adapters.tables import JobRow
from services.trainer.control.domain.names import ModelAliasName, ModelVersionName, TuningJobName
from services.trainer.control.domain.ports import ModelVersion
from services.trainer.node.__main__ import make_agent
from services.trainer.node.agent import Agent
from services.trainer.node.config import NodeConfig

PARENT = "projects/default"
ADAPTER = "adapter_model.safetensors"
TRAINING: dict[str, Any] = {
    "max_steps": 40,
    "batch_size": 4,
    "learning_rate": 5e-3,
    "warmup_steps": 4,
    "max_sequence_tokens": 128,
    "evaluate_every": 20,
    "checkpoint_every": 5,
    "sample_count": 0,
}
SEED = 7


@dataclass(frozen=True)
class Material:
    """What jobs train on: a blob store that has it, and a cache to lay it out in."""

    blobs: Blobs
    base_model: str
    dataset: str
    cache_dir: Path


@dataclass(frozen=True)
class Node:
    """A node that runs."""

    agent: Agent
    work_dir: Path
    life: asyncio.Task[None]

    def engine(self) -> psutil.Process | None:
        """The engine that works for it, as soon as it can hear signals."""
        for child in psutil.Process().children():
            if str(self.work_dir) in " ".join(child.cmdline()):
                return child
        return None

    def kill_engine(self) -> None:
        engine = self.engine()
        assert engine is not None
        os.kill(engine.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """As SIGTERM does."""
        self.agent.stop()
        await self.life


@dataclass(frozen=True)
class Results:
    """The registry's answers: the model versions that were made known."""

    known: dict[str, ModelVersion] = field(default_factory=dict)

    async def resolve(self, name: ModelVersionName | ModelAliasName) -> ModelVersion | None:
        return self.known.get(str(name))

    def register(self, result: job_pb.TuningJobSucceeded) -> None:
        name = ModelVersionName.parse(result.job.model_version)
        self.known[str(name)] = ModelVersion(
            name,
            result.manifest_digest,
            result.job.base_model,
            result.base_model_digest,
            "lora",
            {"rank": result.job.lora.rank},
        )


@dataclass(frozen=True)
class World:
    """Everything a test needs to create jobs, run nodes, and see what comes of it."""

    address: str
    jobs: Any
    bus: Bus
    material: Material
    scratch: Path
    results: Results
    store: Store[Any]

    @asynccontextmanager
    async def node(
        self,
        name: str = "node-a",
        *,
        bus: Bus | None = None,
        blobs: Blobs | None = None,
        **config: Any,
    ) -> AsyncGenerator[Node]:
        told = NodeConfig(
            blobs_url="",
            node_name=name,
            work_dir=self.scratch / name,
            cache_dir=self.material.cache_dir,
            claim_wait_s=2.0,
            speed_limit_s=0,
            self_test_limit_s=0,
            engine_grace_s=10.0,
            warm_engines=0,
        )
        async with open_channel(self.address) as channel:
            parts = (channel, bus or self.bus, blobs or self.material.blobs)
            agent = make_agent(replace(told, **config), *parts)
            node = Node(agent, told.work_dir, asyncio.create_task(agent.run()))
            try:
                yield node
            finally:
                await node.stop()

    async def create(
        self,
        job_id: str,
        max_attempts: int = 3,
        start_version: str = "",
        device_count: int = 1,
        **training: Any,
    ) -> job_pb.TuningJob:
        job = job_pb.TuningJob(
            start_version=start_version,
            base_model="baseModels/tiny-base",
            dataset_version=f"{PARENT}/datasets/support/versions/latest",
            lora=job_pb.LoraMethod(rank=4, dropout=0.1),
            training=job_pb.TrainingParameters(**(TRAINING | training)),
            seed=SEED,
            max_attempts=max_attempts,
            requirements=job_pb.Requirements(device_count=device_count),
        )
        request = service_pb.CreateTuningJobRequest(
            parent=PARENT, tuning_job_id=job_id, tuning_job=job
        )
        return await self.jobs.CreateTuningJob(request)

    async def get(self, job: job_pb.TuningJob) -> job_pb.TuningJob:
        return await self.jobs.GetTuningJob(service_pb.GetTuningJobRequest(name=job.name))

    async def cancel(self, job: job_pb.TuningJob) -> None:
        await self.jobs.CancelTuningJob(service_pb.CancelTuningJobRequest(name=job.name))

    async def pause(self, job: job_pb.TuningJob) -> None:
        """Returns when it is PAUSED."""
        await self.jobs.PauseTuningJob(service_pb.PauseTuningJobRequest(name=job.name))
        while (await self.get(job)).state != job_pb.TuningJob.STATE_PAUSED:
            await asyncio.sleep(0.05)

    async def let_time_run_out(self, job: job_pb.TuningJob) -> None:
        """Its deadline passes now. One that was given when the job was created would race with the
        start of its engine."""
        name = TuningJobName.parse(job.name)
        async with self.store.writing() as unit:
            spec = (await unit.jobs.find(name)).spec
            settings = spec.settings.model_copy(update={"deadline_time": await unit.now()})
            changed = {"spec": spec_text(replace(spec, settings=settings))}
            row = update(JobRow).where(col(JobRow.name) == job.name).values(changed)
            await unit.session.exec(row)

    async def resume(self, job: job_pb.TuningJob) -> None:
        await self.jobs.ResumeTuningJob(service_pb.ResumeTuningJobRequest(name=job.name))

    async def events(self, job: job_pb.TuningJob) -> AsyncGenerator[job_pb.TuningJobEvent]:
        """What happens to a job, until it has ended."""
        request = service_pb.WatchTuningJobRequest(name=job.name)
        async for answer in self.jobs.WatchTuningJob(request):
            yield answer.event

    async def history(self, job: job_pb.TuningJob) -> list[job_pb.TuningJobEvent]:
        """All events of a job, when it has ended."""
        return [event async for event in self.events(job)]

    async def reached(
        self, job: job_pb.TuningJob, kind: str, step: int = 0
    ) -> job_pb.TuningJobEvent:
        """The first event of this kind, at this step or later."""
        async for event in self.events(job):
            if event.WhichOneof("event") == kind and getattr(event, kind).step >= step:
                return event
        raise AssertionError(f"{job.name} ended before any {kind} at {step}: {await self.get(job)}")

    async def result(self, job: job_pb.TuningJob) -> job_pb.TuningJobSucceeded:
        """What the registry hears of a job that succeeded."""
        reader = f"reader-{uuid.uuid4()}"
        async with self.bus.subscribe(reader, ["anneal.jobs.succeeded"]) as deliveries:
            async for delivery in deliveries:
                message = job_pb.TuningJobSucceeded.FromString(delivery.message.payload)
                if message.job.name == job.name:
                    return message
        raise AssertionError("the stream never ends")

    def checkpoints(self, job: job_pb.TuningJob, attempt: int) -> list[int]:
        """The steps of those of an attempt that are in the blob store."""
        folders = self._checkpoints_of(job).glob(f"{attempt}-*")
        return sorted(int(folder.name.split("-")[1]) for folder in folders)

    def damage_checkpoint(self, job: job_pb.TuningJob, attempt: int, step: int) -> None:
        for blob in (self._checkpoints_of(job) / f"{attempt}-{step}").glob("sha256/*/*"):
            blob.write_bytes(b"damaged")

    def _checkpoints_of(self, job: job_pb.TuningJob) -> Path:
        return self.scratch / "blobs" / "owned" / "tuning-jobs" / job.uid

    async def manifest(self, digest: str) -> Manifest:
        return Manifest.parse(await self.material.blobs.read(digest))

    async def adapter(self, job: job_pb.TuningJob) -> str:
        """The sha256 of the weights that a job made."""
        manifest = await self.manifest((await self.result(job)).manifest_digest)
        (file,) = [file for file in manifest.files if file.path == ADAPTER]
        assert (
            hashlib.sha256(await self.material.blobs.read(file.sha256)).hexdigest() == file.sha256
        )
        return file.sha256


def steps_of(events: list[job_pb.TuningJobEvent], attempt: int = 0) -> list[int]:
    """The steps that were told, of one attempt or of all."""
    steps = [event for event in events if event.WhichOneof("event") == "step"]
    return [event.step.step for event in steps if attempt in (0, event.attempt)]


def assert_no_gap(events: list[job_pb.TuningJobEvent]) -> None:
    """Whole, in order, each once: the history, and within it what each attempt told."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    for attempt in {event.attempt for event in events if event.attempt_sequence}:
        told = [e.attempt_sequence for e in events if e.attempt == attempt and e.attempt_sequence]
        assert told == list(range(1, len(told) + 1))
