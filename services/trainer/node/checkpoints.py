"""The checkpoints of one attempt: those that it may begin from, and those that its engine saves."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from services.common.directories import Directories
from services.common.failpoints import failpoint
from services.common.faults import DataLoss
from services.trainer.node import translation
from services.trainer.node.lease import Lease, StoredCheckpoint
from services.trainer.node.telemetry import Telemetry

T = TypeVar("T")

_log = structlog.get_logger()


class Holder(Protocol):
    """The attempt whose checkpoints they are."""

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the blob store answers. Raises Unavailable when it has been away for too long."""
        ...

    async def tell(
        self, *, stored: StoredCheckpoint | None = None, refused: StoredCheckpoint | None = None
    ) -> None:
        """Returns once the service knows."""
        ...

    def unstored(self) -> None:
        """A checkpoint can not be stored."""
        ...


class Checkpoints:
    """`directory` is the attempt's own. A checkpoint is reported only when its blobs are stored
    and every event before it is in the stream."""

    def __init__(
        self,
        lease: Lease,
        directories: Directories,
        telemetry: Telemetry,
        directory: Path,
        holder: Holder,
    ) -> None:
        self._lease = lease
        self._directories = directories
        self._telemetry = telemetry
        self._directory = directory
        self._holder = holder
        self._storing: asyncio.Task[None] | None = None
        self._taken_steps: set[int] = set()
        self._stored: list[StoredCheckpoint] = []
        self._refused: list[StoredCheckpoint] = []

    def known(self) -> tuple[StoredCheckpoint, ...]:
        """Those of the lease and those stored since, without the refused, the newest first."""
        found = (*reversed(self._stored), *self._lease.checkpoints)
        return tuple(one for one in found if one not in self._refused)

    async def fetched(self, stored: StoredCheckpoint) -> Path:
        """Where its files lie for the engine, beside all others. Raises DataLoss."""
        to = self._directory / "resume" / f"step-{stored.step:08d}"
        if to.exists():
            return to
        to.parent.mkdir(exist_ok=True)
        owner = self._lease.owner_of(stored.attempt, stored.step, stored.job_uid)
        return await self._holder.patiently(
            lambda: self._directories.owned_by(owner).fetch(stored.manifest_digest, to)
        )

    async def fetch_best(self) -> None:
        """Lays out the one of the lowest held-out loss for an engine that goes on from another.
        Should it be of no use, the engine does without."""
        oldest_first = self.known()[::-1]  # of several alike the first is the engine's best
        losses = [one.validation_loss for one in oldest_first if one.validation_loss is not None]
        if not losses:
            return
        best = next(one for one in oldest_first if one.validation_loss == min(losses))
        try:
            await self.fetched(best)
        except DataLoss as error:
            await self.refuse(best, error.message)

    async def refuse(self, checkpoint: StoredCheckpoint, why: str) -> None:
        """One that can not be used now never will be. The service forgets it before anything is
        trained: whatever happens then, no attempt comes upon it again."""
        step = checkpoint.step
        text = f"the checkpoint of step {step} is of no use: {why}"
        self._telemetry.add(translation.warning(text))
        _log.warning("attempt.checkpoint_refused", job=self._lease.job, step=step, error=why)
        self._refused.append(checkpoint)
        await self._holder.tell(refused=checkpoint)

    def take(self, saved: translation.SavedCheckpoint, validation_loss: float | None) -> None:
        """Puts it out of reach of the engine, which drops old ones however long they wait here,
        and has it stored."""
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
        storing = self._store(saved.step, directory, validation_loss, self._storing)
        self._storing = asyncio.create_task(storing)
        self._storing.add_done_callback(self._ended)

    async def stored(self) -> None:
        """Returns when every one that was taken is stored. Raises what hindered that."""
        if self._storing is not None:
            await self._storing

    async def settled(self) -> None:
        """Returns when every one that was taken is stored, or can not be."""
        if self._storing is not None:
            await asyncio.wait({self._storing})

    async def abandon(self) -> None:
        """Stores no more of them."""
        if self._storing is not None:
            self._storing.cancel()
        await self.settled()

    async def _store(
        self, step: int, directory: Path, loss: float | None, earlier: asyncio.Task[None] | None
    ) -> None:
        """Runs beside the training, one after the other, so that no step event waits for it."""
        if earlier is not None:
            await earlier
        attempt, meta = self._lease.attempt, {"tuning_job": self._lease.job}
        owner = self._lease.owner_of(attempt, step)
        stored = await self._holder.patiently(
            lambda: self._directories.owned_by(owner).store(directory, meta)
        )
        checkpoint = StoredCheckpoint(
            attempt, step, stored.manifest_digest, stored.size_bytes, loss
        )
        self._telemetry.add(translation.checkpoint(checkpoint))
        await self._telemetry.stored()
        failpoint("node.checkpointed")
        await self._holder.tell(stored=checkpoint)
        self._stored.append(checkpoint)
        shutil.rmtree(directory, ignore_errors=True)

    def _ended(self, storing: asyncio.Task[None]) -> None:
        if not storing.cancelled() and storing.exception():
            self._holder.unstored()
