"""One attempt at one job, from the lease to its end."""

import asyncio
import importlib.metadata
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, assert_never

import structlog

from services.common.directories import Directories
from services.common.failpoints import failpoint
from services.common.faults import DataLoss, NotFound, Unavailable
from services.trainer.engine.process import ExitCode
from services.trainer.node import translation
from services.trainer.node.backends import BUILTIN
from services.trainer.node.checkpoints import Checkpoints
from services.trainer.node.engine import (
    EngineEvent,
    EngineExit,
    EngineGarbled,
    EngineProcess,
)
from services.trainer.node.engines import StartEngine
from services.trainer.node.lease import (
    Beat,
    Cause,
    Directive,
    Failure,
    Lease,
    LeaseLost,
    Leases,
    Refused,
    Result,
    StoredCheckpoint,
)
from services.trainer.node.material import fetched
from services.trainer.node.outcomes import unexplained, with_last_lines, words
from services.trainer.node.retrying import repeated
from services.trainer.node.telemetry import Telemetry
from services.trainer.node.watchdog import Patience, Watchdog

T = TypeVar("T")

_HEARTBEATS_PER_LEASE = 3
_SLOWEST_HEARTBEAT_S = 3.0
"""A heartbeat is how a node hears that its job was cancelled."""
_LAST_WORDS_S = 1.0
"""For how long an engine that hangs may say where."""
_IN_A_HURRY = (Cause.CANCELLED, Cause.NODE_STOPPING)

_log = structlog.get_logger()


@dataclass(frozen=True)
class AttemptSettings:
    """`grace_s`: how long a stopping engine may take for its last step and checkpoint.
    `storage_patience_s`: how long the blob store may be away before the attempt ends.
    `start_engine` starts what trains. `patience`: when it counts as hanging."""

    work_dir: Path
    threads: int
    processes: int
    grace_s: float
    storage_patience_s: float
    start_engine: StartEngine
    patience: Patience = field(default_factory=Patience)


class _NothingToFinish(Exception):
    """The job's time is over, and there is nothing that a result could be made of."""


class Attempt:
    """Trains one lease's job.

    The order of things is what makes a crash harmless: a result is reported only when it is
    stored and every event is in the stream, and so is each checkpoint: see Checkpoints.
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
        self._checkpoints = Checkpoints(lease, directories, telemetry, self._directory, self)
        self._engine: EngineProcess | None = None
        self._stop_cause: Cause | None = None
        self._is_in_a_hurry = False
        self._finishing = False
        self._step = 0
        self._last_evaluation: EngineEvent | None = None
        self._metrics: dict[str, float] | None = None
        self._failure: Failure | None = None
        self._follow(lease.directive)

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
            self._directories.end_uses()
            shutil.rmtree(self._directory, ignore_errors=True)

    def stop(self, cause: Cause) -> None:
        """Has the engine stop after its step; the attempt then ends by `cause`."""
        self._is_in_a_hurry |= cause in _IN_A_HURRY
        if self._stop_cause is None:
            self._stop_cause = cause
            self._stop_engine()

    def _follow(self, directive: Directive) -> None:
        match directive:
            case Directive.TRAIN:
                pass
            case Directive.CANCEL:
                self.stop(Cause.CANCELLED)
            case Directive.PAUSE:
                self.stop(Cause.PAUSED)
            case Directive.YIELD:
                self.stop(Cause.PREEMPTED)
            case Directive.FINISH:
                self._finish()
            case _:
                assert_never(directive)

    def _finish(self) -> None:
        """Has the engine stop after its step; another one then makes a result of the best."""
        if not self._finishing:
            self._finishing = True
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
                failpoint("node.completing")
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
            return await self._outcome(await self._run_to_end(await self._fetched()))
        except EngineGarbled as error:
            failure = Failure(Cause.ENGINE_ERROR, str(error))
        except _NothingToFinish as error:
            failure = Failure(self._stop_cause or Cause.DEADLINE, str(error))
        except (Unavailable, NotFound, DataLoss, OSError) as error:
            failure = Failure(self._stop_cause or Cause.STORAGE, words(error))
        await self._last_checkpoint_stored()
        return failure

    async def _fetched(self) -> dict[str, Path | None]:
        """The paths of the job file, apart from the checkpoint's."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        found = await fetched(self._lease, self._directories, self.patiently)
        return found | {"work_dir": self._directory}

    async def _run_to_end(self, paths: dict[str, Path | None]) -> EngineExit:
        """Runs the engine, and once more if it was stopped in order to finish. Raises
        _NothingToFinish."""
        if not self._finishing:
            end = await self._run_from_newest(paths, finish=False)
            await self._checkpoints.stored()
            has_ended = (self._metrics, self._failure, self._stop_cause) != (None, None, None)
            if has_ended or not self._finishing:
                return end
        if self._lease.backend != BUILTIN:
            raise _NothingToFinish(f"{self._lease.backend} can not finish before its last step")
        await self._checkpoints.fetch_best()
        return await self._run_from_newest(paths, finish=True)

    async def _run_from_newest(self, paths: dict[str, Path | None], finish: bool) -> EngineExit:
        """Runs the engine to its end: from the newest checkpoint that is of use, else from the
        first step."""
        known = [one for one in self._checkpoints.known() if one.step or not finish]
        for checkpoint in known:
            try:
                directory = await self._checkpoints.fetched(checkpoint)
            except DataLoss as error:
                await self._checkpoints.refuse(checkpoint, error.message)
                continue
            end = await self._run_engine(paths | {"resume_from": directory}, finish, checkpoint)
            if end.status != ExitCode.CHECKPOINT_REFUSED or self._stop_cause is not None:
                return end
            why = self._failure.message if self._failure else "refused"
            self._failure = None
            await self._checkpoints.refuse(checkpoint, why)
            shutil.rmtree(directory)
        if finish:
            raise _NothingToFinish("no step of it was kept")
        if known:
            self._telemetry.add(translation.warning("no checkpoint is left: training begins anew"))
        return await self._run_engine(paths | {"resume_from": None}, finish)

    async def _run_engine(
        self,
        paths: dict[str, Path | None],
        finish: bool,
        checkpoint: StoredCheckpoint | None = None,
    ) -> EngineExit:
        """Runs one to its end, that goes on from the checkpoint."""
        job_file, settings = self._directory / "job.json", self._settings
        threads, processes = settings.threads, settings.processes
        reliefs = self._lease.reliefs(checkpoint)
        job_file.write_text(
            translation.job_file(self._lease, paths, threads, processes, finish, reliefs)
        )
        engine = self._engine = await settings.start_engine(job_file)
        if self._stop_cause is not None or self._finishing != finish:
            self._stop_engine()  # what it is for came while there was no engine to be told
        watchdog = Watchdog(settings.patience)
        watching = asyncio.create_task(self._kill_if_hanging(engine, watchdog))
        try:
            async for event in engine.events():
                self._handle(event, watchdog)
        finally:
            watching.cancel()
        self._end_engine_within_grace(engine)  # it has nothing more to say
        return await engine.wait()

    async def _kill_if_hanging(self, engine: EngineProcess, watchdog: Watchdog) -> None:
        await watchdog.bark()
        silent = f"nothing was heard of it for {watchdog.silent_s:.1f} s after step {self._step}"
        _log.warning("attempt.no_progress", job=self._lease.job, silent_s=watchdog.silent_s)
        self._failure = Failure(Cause.NO_PROGRESS, silent)
        engine.ask_where()
        await asyncio.sleep(_LAST_WORDS_S)
        engine.kill()

    def _handle(self, event: EngineEvent, watchdog: Watchdog) -> None:
        """Raises EngineGarbled."""
        try:
            watchdog.heard(event)
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
                self._telemetry.add(translation.relieved(event))
            case "log":
                self._telemetry.add(translation.log_line(event))
            case "checkpoint":
                saved = translation.saved_checkpoint(event)
                loss = translation.held_out_loss(self._last_evaluation, saved.step)
                self._checkpoints.take(saved, loss)
            case "alive":
                pass  # the watchdog has heard it
            case "finished":
                self._metrics = translation.metrics(event, self._settings.processes)
            case "failed":
                self._failure = translation.failure(event)
            case unknown:
                raise ValueError(unknown)

    def unstored(self) -> None:
        """A run whose checkpoints can not be stored must not go on as if they were."""
        if self._engine is not None:
            self._engine.kill()

    async def _last_checkpoint_stored(self) -> None:
        """What an engine saved before it failed counts, unless it can not be stored."""
        if self._engine is not None:
            self._engine.kill()
        await self._checkpoints.settled()

    async def _outcome(self, end: EngineExit) -> Result | Failure:
        await self._checkpoints.stored()
        if self._metrics is not None:  # its artifacts are whole, however it left after that
            return await self._result(self._metrics)
        if self._stop_cause is not None:
            return Failure(self._stop_cause, f"the engine was stopped at step {self._step}")
        return with_last_lines(self._failure or unexplained(end, self._step), end)

    async def _result(self, metrics: dict[str, float]) -> Result:
        code_version = importlib.metadata.version("anneal")
        meta = {"tuning_job": self._lease.job, "code_version": code_version}
        artifacts = self._directory / "artifacts"
        stored = await self.patiently(lambda: self._directories.store(artifacts, meta))
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

    async def tell(
        self, *, stored: StoredCheckpoint | None = None, refused: StoredCheckpoint | None = None
    ) -> None:
        """Returns once the service knows what became of a checkpoint."""
        await self._insist(lambda: self._heartbeat(stored, refused))

    async def _heartbeat(
        self, stored: StoredCheckpoint | None = None, refused: StoredCheckpoint | None = None
    ) -> None:
        beat = Beat(self._step, stored, refused)
        self._follow(await self._leases.heartbeat(self._lease, beat))

    async def _insist(self, call: Callable[[], Awaitable[None]]) -> None:
        """Calls until the service answers; the heartbeats find out if the lease is gone."""
        await repeated(call, "attempt.trainer_away", job=self._lease.job)

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the blob store answers. Raises Unavailable when it has been away for too long, or
        when the attempt is told to stop meanwhile and nobody would use what is stored, or wait for
        it."""

        def gives_up(waited_s: float) -> bool:
            too_long = waited_s >= self._settings.storage_patience_s
            return too_long or self._is_in_a_hurry

        return await repeated(call, "attempt.blobs_away", gives_up, job=self._lease.job)

    async def _end_children(self) -> None:
        await self._checkpoints.abandon()
        if self._engine is not None:
            self._engine.kill()
            await self._engine.wait()
