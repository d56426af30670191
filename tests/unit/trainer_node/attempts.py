"""An attempt with an engine of a few lines, and what stands around it."""

import asyncio
import hashlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

from anneal.trainer.v1 import tuning_job_pb2 as pb
from services.common.blobs import Blob, BlobsUnavailable, ObstoreBlobs
from services.common.bus_memory import MemoryBus
from services.common.directories import Directories
from services.common.testing.clock import FakeClock
from services.trainer.node.attempt import Attempt, AttemptSettings
from services.trainer.node.engines import cold
from services.trainer.node.lease import (
    Beat,
    Directive,
    Failure,
    Lease,
    LeaseLost,
    LocalBase,
    Result,
    StoredCheckpoint,
)
from services.trainer.node.telemetry import Telemetry
from services.trainer.node.watchdog import Patience

JOB = "projects/default/tuningJobs/first"
UID = "0a1b"
PATIENCE = Patience()
PRELUDE = """
import json, os, pathlib, signal, sys, time

job = json.loads(pathlib.Path(sys.argv[1]).read_text())
work = pathlib.Path(job["work_dir"])

def emit(type_, **fields):
    print(json.dumps({"type": type_, "time": 0.0, **fields}), flush=True)

def step(number):
    emit("step", step=number, total_steps=9, epoch=0.5, loss=1.0, best_loss=1.0, tokens=1,
         learning_rate=0.1, gradient_norm=1.0, tokens_per_second=1.0, progress_percent=1.0,
         eta_seconds=1.0, step_seconds=0.01)

def checkpoint(number):
    path = work / "checkpoints" / f"step-{number}"
    path.mkdir(parents=True)
    (path / "state.json").write_text(str(number))
    emit("checkpoint", step=number, path=str(path), digest="")

def evaluated(number, loss):
    emit("eval", step=number, loss=loss, token_accuracy=0.5, examples=1, tokens=1, best_loss=loss)

def finish():
    (work / "artifacts").mkdir()
    (work / "artifacts" / "adapter").write_text("weights")
    emit("finished", steps=9, final_loss=1.0, best_loss=1.0, validation_loss=None, artifacts=[])
"""


class AwayBlobs(ObstoreBlobs):
    """A blob store that takes nothing while it is `away`."""

    away = False

    async def put(self, chunks: Any) -> Blob:
        if self.away:
            raise BlobsUnavailable
        return await super().put(chunks)

    async def put_file(self, path: Path) -> Blob:
        if self.away:
            raise BlobsUnavailable
        return await super().put_file(path)


@dataclass
class MemoryLeases:
    """The service's side of one lease. `trouble` is raised once each, by the next calls."""

    directive: Directive = Directive.TRAIN
    lost: bool = False
    trouble: list[Exception] = field(default_factory=list)
    checkpoints: list[StoredCheckpoint] = field(default_factory=list)
    refused: list[tuple[int, int]] = field(default_factory=list)
    told: list[tuple[Result | Failure, int]] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def claim(self, wait_s: float) -> Lease | None:
        return None

    async def heartbeat(self, lease: Lease, beat: Beat) -> Directive:
        self._answer(lease)
        if beat.stored is not None:
            self.checkpoints.append(beat.stored)
            self.heard.set()
        if beat.refused is not None:
            self.refused.append((beat.refused.attempt, beat.refused.step))
        return self.directive

    async def complete(self, lease: Lease, result: Result, event_count: int) -> None:
        self._answer(lease)
        self.told.append((result, event_count))

    async def fail(self, lease: Lease, failure: Failure, event_count: int) -> None:
        self._answer(lease)
        self.told.append((failure, event_count))

    def _answer(self, lease: Lease) -> None:
        if self.lost:
            raise LeaseLost(lease.job, lease.attempt)
        if self.trouble:
            raise self.trouble.pop()


class World:
    """One lease, its attempt, and all that it stands on."""

    def __init__(self, scratch: Path, blobs: AwayBlobs, base_model: str, dataset: str) -> None:
        self.blobs = blobs
        self.bus = MemoryBus()
        self.leases = MemoryLeases()
        self.work_dir = scratch / "work"
        self._directories = Directories(blobs, scratch / "cache")
        self._base_model = base_model
        self._dataset = dataset

    def attempt(
        self,
        program: str,
        checkpoints: Sequence[StoredCheckpoint] = (),
        start: str = "",
        patience_s: float = 30,
        grace_s: float = 5,
        hangs_after: Patience = PATIENCE,
        **lease_fields: Any,
    ) -> Attempt:
        lease = Lease(
            job=JOB,
            uid=UID,
            attempt=2,
            duration_s=0.3,
            dataset_digest=self._dataset,
            base=LocalBase(self._base_model),
            seed=0,
            method={},
            training={},
            start_manifest_digest=start,
            checkpoints=tuple(checkpoints),
            **lease_fields,
        )
        engine = cold((sys.executable, "-c", PRELUDE + dedent(program)))
        settings = AttemptSettings(self.work_dir, 1, 1, grace_s, patience_s, engine, hangs_after)
        telemetry = Telemetry(self.bus, FakeClock(), JOB, 2)
        return Attempt(lease, self.leases, self._directories, telemetry, settings)

    async def run(self, program: str, **given: Any) -> Result | Failure:
        """What the service is told at the end."""
        await asyncio.wait_for(self.attempt(program, **given).run(), 20)
        return self.outcome()

    async def run_and_tell(
        self, directive: Directive, program: str, /, **given: Any
    ) -> Result | Failure:
        """As `run`, and after the job's first event the service wants this."""
        running = asyncio.create_task(self.attempt(program, **given).run())
        while not self.events():
            await asyncio.sleep(0.01)
        self.leases.directive = directive
        await asyncio.wait_for(running, 20)
        return self.outcome()

    def outcome(self) -> Result | Failure:
        ((outcome, event_count),) = self.leases.told
        assert event_count == len(self.events())
        assert not list(self.work_dir.iterdir()), "an attempt leaves nothing behind"
        return outcome

    def events(self) -> list[pb.TuningJobEvent]:
        return [pb.TuningJobEvent.FromString(message.payload) for message in self.bus._stream]

    async def store(self, **files: str) -> str:
        """A directory of these files in the blob store."""
        return await self._stored(self._directories, files)

    async def run_and_cancel(self, program: str, **given: Any) -> Result | Failure:
        return await self.run_and_tell(Directive.CANCEL, program, **given)

    async def checkpoint(
        self, step: int, loss: float | None = None, job_uid: str = "", **files: str
    ) -> StoredCheckpoint:
        """One of the first attempt's."""
        owned = self._directories.owned_by(f"tuning-jobs/{job_uid or UID}/1-{step}")
        return StoredCheckpoint(1, step, await self._stored(owned, files), 0, loss, job_uid)

    async def damage(self, content: str) -> None:
        """The bytes of the blob with this content, wherever it is."""
        for path in self.work_dir.parent.rglob(hashlib.sha256(content.encode()).hexdigest()):
            path.write_text("damaged")

    async def _stored(self, directories: Directories, files: Mapping[str, str]) -> str:
        directory = self.work_dir.parent / "to-store"
        directory.mkdir()
        for name, content in files.items():
            (directory / name).write_text(content)
        stored = await directories.store(directory, {})
        shutil.rmtree(directory)
        return stored.manifest_digest
