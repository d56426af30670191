"""One attempt at one job, from the lease to its end."""

import asyncio
import importlib.metadata
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from services.common.directories import Directories
from services.common.faults import DataLoss, NotFound, Unavailable
from services.trainer.engine.process import ExitCode
from services.trainer.node import translation
from services.trainer.node.engine import (
    ENGINE,
    EngineEvent,
    EngineExit,
    EngineGarbled,
    EngineProcess,
)
from services.trainer.node.lease import (
    Beat,
    Cause,
    Failure,
    HubBase,
    Lease,
    LeaseLost,
    Leases,
    LocalBase,
    Refused,
    Result,
    StoredCheckpoint,
)
from services.trainer.node.outcomes import unexplained, with_last_lines, words
from services.trainer.node.retrying import repeated
from services.trainer.node.telemetry import Telemetry

T = TypeVar("T")

_HEARTBEATS_PER_LEASE = 3
_SLOWEST_HEARTBEAT_S = 3.0
"""A heartbeat is how a node hears that its job was cancelled."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class AttemptSettings:
    """`grace_s`: how long a stopping engine may take for its last step and checkpoint.
    `storage_patience_s`: how long the blob store may be away before the attempt ends.
    `engine`: the program, called with a job file."""

    work_dir: Path
    threads: int
    processes: int
    grace_s: float
    storage_patience_s: float
    engine: Sequence[str] = ENGINE


class Attempt:
    """Trains one lease's job.

    The order of things is what makes a crash harmless: a checkpoint is reported only when its
    blobs are stored and every event before it is in the stream; a result only when everything is.
    """

    def __init__(
        self,
        lease: Lease,
        leases: Leases,
        directories: Directories,
        telemetry: Telemetry,
        settings: AttemptSettings,
    ) -> None:
        self._lease = lease
        self._leases = leases
        self._directories = directories
        self._telemetry = telemetry
        self._settings = settings
        self._directory = settings.work_dir / f"{lease.job.replace('/', '-')}-{lease.attempt}"
        self._engine: EngineProcess | None = None
        self._stop_cause: Cause | None = None
        self._step = 0
        self._last_evaluation: EngineEvent | None = None
        self._metrics: dict[str, float] | None = None
        self._failure: Failure | None = None
        self._storing: asyncio.Task[None] | None = None
        self._taken_steps: set[int] = set()

    async def run(self) -> None:
        """Ends when the service has taken the result or the failure, or the lease is lost.

        Raises nothing that an engine, a blob or a peer can cause.
        """
        log = _log.bind(job=self._lease.job, attempt=self._lease.attempt)
        log.info("attempt.started", checkpoints=len(self._lease.checkpoints))
        try:
            async with asyncio.TaskGroup() as group:
                beside = (
                    group.create_task(self._beat()),
                    group.create_task(self._telemetry.publish_all()),
                )
                await self._train_and_report()
                for task in beside:
                    task.cancel()
            log.info("attempt.reported", steps=self._step)
        except* LeaseLost:
            log.warning("attempt.lease_lost", steps=self._step)
        except* Refused as refusals:
            # The lease runs out and the attempt counts, so that no job stops node after node.
            log.error(
                "attempt.refused", steps=self._step, errors=list(map(str, refusals.exceptions))
            )
        finally:
            await self._end_children()
            shutil.rmtree(self._directory, ignore_errors=True)

    def stop(self, cause: Cause) -> None:
        """Has the engine stop after its step; the attempt then ends by `cause`."""
        if self._stop_cause is None:
            self._stop_cause = cause
            self._stop_engine()

    def _stop_engine(self) -> None:
        if self._engine is not None:
            self._engine.request_stop()
            self._end_engine_within_grace(self._engine)

    def _end_engine_within_grace(self, engine: EngineProcess) -> None:
        asyncio.get_running_loop().call_later(self._settings.grace_s, engine.kill)

    async def _train_and_report(self) -> None:
        outcome = await self._train()
        await self._telemetry.stored()
        match outcome:
            case Result():
                await self._insist(
                    lambda: self._leases.complete(self._lease, outcome, self._telemetry.count)
                )
            case Failure():
                await self._insist(
                    lambda: self._leases.fail(self._lease, outcome, self._telemetry.count)
                )

    async def _train(self) -> Result | Failure:
        """However that ends, but by LeaseLost."""
        try:
            if self._stop_cause is not None:
                return Failure(self._stop_cause, "stopped before training began")
            return await self._outcome(await self._run_from_newest(await self._fetched()))
        except EngineGarbled as error:
            failure = Failure(Cause.ENGINE_ERROR, str(error))
        except (Unavailable, NotFound, DataLoss, OSError) as error:
            failure = Failure(self._stop_cause or Cause.STORAGE, words(error))
        await self._last_checkpoint_stored()
        return failure

    async def _fetched(self) -> dict[str, Path | None]:
        """The paths of the job file, apart from the checkpoint's."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        digest = self._lease.dataset_digest
        return {
            "base_model_dir": await self._patiently(self._base_model),
            "dataset_file": await self._patiently(
                lambda: self._directories.cached_file(digest, ".parquet")
            ),
            "work_dir": self._directory,
            "start_from": await self._patiently(self._start),
        }

    async def _base_model(self) -> Path:
        match self._lease.base:
            case LocalBase(manifest_digest):
                return await self._directories.cached(manifest_digest)
            case HubBase(repository, revision):
                return await self._directories.cached_hub_model(repository, revision)

    async def _start(self) -> Path | None:
        digest = self._lease.start_manifest_digest
        return await self._directories.cached(digest) if digest else None

    async def _run_from_newest(self, paths: dict[str, Path | None]) -> EngineExit:
        """Runs the engine to its end: from the newest checkpoint that is of use, else from the
        first step."""
        for checkpoint in self._lease.checkpoints:
            try:
                directory = await self._patiently(partial(self._checkpoint, checkpoint))
            except DataLoss as error:
                await self._refuse(checkpoint, error.message)
                continue
            end = await self._run_engine(paths | {"resume_from": directory})
            if end.status != ExitCode.CHECKPOINT_REFUSED or self._stop_cause is not None:
                return end
            await self._refuse(checkpoint, self._failure.message if self._failure else "refused")
            shutil.rmtree(directory)
        if self._lease.checkpoints:
            self._telemetry.add(translation.warning("no checkpoint is left: training begins anew"))
        return await self._run_engine(paths | {"resume_from": None})

    async def _checkpoint(self, stored: StoredCheckpoint) -> Path:
        """Raises DataLoss."""
        theirs = self._owned_by(stored.attempt, stored.step)
        to = self._directory / "resume" / f"step-{stored.step:08d}"
        to.parent.mkdir(exist_ok=True)
        return await theirs.fetch(stored.manifest_digest, to)

    def _owned_by(self, attempt: int, step: int) -> Directories:
        """Where a checkpoint is kept."""
        return self._directories.owned_by(self._lease.owner_of(attempt, step))

    async def _refuse(self, checkpoint: StoredCheckpoint, why: str) -> None:
        """One that can not be used now never will be. The service forgets it before anything is
        trained: whatever happens then, no attempt comes upon it again."""
        text = f"the checkpoint of step {checkpoint.step} is of no use: {why}"
        self._telemetry.add(translation.warning(text))
        step = checkpoint.step
        _log.warning("attempt.checkpoint_refused", job=self._lease.job, step=step, error=why)
        self._failure = None
        await self._insist(lambda: self._heartbeat(refused=checkpoint))

    def _job_file(self, paths: dict[str, Path | None]) -> str:
        settings = self._settings
        return translation.job_file(self._lease, paths, settings.threads, settings.processes)

    async def _run_engine(self, paths: dict[str, Path | None]) -> EngineExit:
        """Runs one to its end."""
        job_file = self._directory / "job.json"
        job_file.write_text(self._job_file(paths))
        engine = self._engine = await EngineProcess.start(job_file, self._settings.engine)
        if self._stop_cause is not None:  # it came while there was no engine to be told
            self._stop_engine()
        async for event in engine.events():
            self._handle(event)
        self._end_engine_within_grace(engine)  # it has nothing more to say
        return await engine.wait()

    def _handle(self, event: EngineEvent) -> None:
        """Raises EngineGarbled."""
        try:
            self._told(event)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineGarbled(event) from error

    def _told(self, event: EngineEvent) -> None:
        match event["type"]:
            case "started":
                self._telemetry.add(translation.started(event))
            case "step":
                message = translation.step(event)
                self._step = message.step.step
                self._telemetry.add(message)
            case "eval":
                self._last_evaluation = event
                self._telemetry.add(translation.evaluation(event))
            case "samples":
                self._telemetry.add(translation.samples(event))
            case "resumed":
                self._telemetry.add(translation.resumed(event))
            case "relieved":
                pass  # a log line says so in words
            case "log":
                self._telemetry.add(translation.log_line(event))
            case "checkpoint":
                self._take_checkpoint(translation.saved_checkpoint(event))
            case "finished":
                self._metrics = translation.metrics(event, self._settings.processes)
            case "failed":
                self._failure = translation.failure(event)
            case unknown:
                raise ValueError(unknown)

    def _take_checkpoint(self, saved: translation.SavedCheckpoint) -> None:
        """Puts it out of reach of the engine, which drops old ones however long they wait here."""
        if saved.step in self._taken_steps:
            _log.warning("attempt.checkpoint_told_again", job=self._lease.job, step=saved.step)
            return
        directory = self._directory / "storing" / saved.directory.name
        directory.parent.mkdir(exist_ok=True)
        try:
            saved.directory.rename(directory)
        except FileNotFoundError:
            _log.warning("attempt.checkpoint_dropped", job=self._lease.job, step=saved.step)
            return
        self._taken_steps.add(saved.step)
        loss = translation.held_out_loss(self._last_evaluation, saved.step)
        storing = self._store_checkpoint(saved.step, directory, loss, self._storing)
        self._storing = asyncio.create_task(storing)
        self._storing.add_done_callback(self._stop_if_unstored)

    async def _store_checkpoint(
        self, step: int, directory: Path, loss: float | None, earlier: asyncio.Task[None] | None
    ) -> None:
        """Runs beside the training, one after the other, so that no step event waits for it."""
        if earlier is not None:
            await earlier
        attempt, meta = self._lease.attempt, {"tuning_job": self._lease.job}
        stored = await self._patiently(lambda: self._owned_by(attempt, step).store(directory, meta))
        checkpoint = StoredCheckpoint(
            attempt, step, stored.manifest_digest, stored.size_bytes, loss
        )
        self._telemetry.add(translation.checkpoint(checkpoint))
        await self._telemetry.stored()
        await self._insist(lambda: self._heartbeat(checkpoint))
        shutil.rmtree(directory, ignore_errors=True)

    def _stop_if_unstored(self, storing: asyncio.Task[None]) -> None:
        """A run whose checkpoints can not be stored must not go on as if they were."""
        if self._engine is not None and not storing.cancelled() and storing.exception():
            self._engine.kill()

    async def _last_checkpoint_stored(self) -> None:
        """What an engine saved before it failed counts, unless it can not be stored."""
        if self._engine is not None:
            self._engine.kill()
        if self._storing is not None:
            await asyncio.wait({self._storing})

    async def _outcome(self, end: EngineExit) -> Result | Failure:
        if self._storing is not None:
            await self._storing
        if self._metrics is not None:  # its artifacts are whole, however it left after that
            return await self._result(self._metrics)
        if self._stop_cause is not None:
            return Failure(self._stop_cause, f"the engine was stopped at step {self._step}")
        return with_last_lines(self._failure or unexplained(end, self._step), end)

    async def _result(self, metrics: dict[str, float]) -> Result:
        code_version = importlib.metadata.version("anneal")
        meta = {"tuning_job": self._lease.job, "code_version": code_version}
        artifacts = self._directory / "artifacts"
        stored = await self._patiently(lambda: self._directories.store(artifacts, meta))
        return Result(
            manifest_digest=stored.manifest_digest,
            base_model_digest=self._lease.base.digest,
            code_version=code_version,
            metrics=metrics,
        )

    async def _beat(self) -> None:
        """Beats until it is cancelled. Raises LeaseLost."""
        pause_s = min(self._lease.duration_s / _HEARTBEATS_PER_LEASE, _SLOWEST_HEARTBEAT_S)
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._heartbeat()
            except Unavailable as error:
                _log.warning("attempt.no_heartbeat", job=self._lease.job, error=error.message)

    async def _heartbeat(
        self, stored: StoredCheckpoint | None = None, refused: StoredCheckpoint | None = None
    ) -> None:
        if await self._leases.heartbeat(self._lease, Beat(self._step, stored, refused)):
            self.stop(Cause.CANCELLED)

    async def _insist(self, call: Callable[[], Awaitable[None]]) -> None:
        """Calls until the service answers; the heartbeats find out if the lease is gone."""
        await repeated(call, "attempt.trainer_away", job=self._lease.job)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the blob store answers. Raises Unavailable when it has been away for too long, or
        when the attempt is told to stop meanwhile."""

        def gives_up(waited_s: float) -> bool:
            too_long = waited_s >= self._settings.storage_patience_s
            return too_long or self._stop_cause is not None

        return await repeated(call, "attempt.blobs_away", gives_up, job=self._lease.job)

    async def _end_children(self) -> None:
        if self._storing is not None:
            self._storing.cancel()
            await asyncio.wait({self._storing})
        if self._engine is not None:
            self._engine.kill()
            await self._engine.wait()
