"""The checkpoints of a job from which a later attempt can go on, and which of them stay."""

import math
from dataclasses import dataclass

from services.trainer.control.domain.settings import TrainingParameters

MAX_TOLD = 100
"""So many of the newest a lease tells of."""


@dataclass(frozen=True)
class Checkpoint:
    """`validation_loss` is the held-out loss of its step, in nats a labeled token; None: it was not
    evaluated. `job_uid` is that of the job which stored it: a retried one's may have become another
    job's."""

    attempt: int
    step: int
    manifest_digest: str
    size_bytes: int = 0
    validation_loss: float | None = None
    job_uid: str = ""

    @property
    def place(self) -> tuple[int, int]:
        """What tells it from all others of its job."""
        return self.attempt, self.step


Checkpoints = tuple[Checkpoint, ...]
"""By attempt and step: the newest is the last. A later attempt believes in what it stored itself,
whatever step an earlier one had come to."""


def is_news(checkpoints: Checkpoints, told: Checkpoint) -> bool:
    """Within an attempt steps only rise: one that comes late or again may have been dropped since,
    and its blobs be gone."""
    return all(one.step < told.step for one in checkpoints if one.attempt == told.attempt)


def staying(checkpoints: Checkpoints, training: TrainingParameters) -> Checkpoints:
    """The last ones, the one of the lowest held-out loss, and those of certain steps."""
    last, every = training.keep_last_checkpoints, training.keep_checkpoint_every
    evaluated = [one for one in checkpoints if one.validation_loss is not None]
    kept = {one.place for one in checkpoints[-last:]}
    kept |= {one.place for one in checkpoints if every and one.step % every == 0}
    kept |= {one.place for one in sorted(evaluated, key=_loss)[:1]}
    return tuple(one for one in checkpoints if one.place in kept)


def told_of(checkpoints: Checkpoints) -> Checkpoints:
    """What a lease tells of: the newest, and the one of the lowest held-out loss among them."""
    newest = checkpoints[-MAX_TOLD:]
    best = sorted((one for one in checkpoints if one.validation_loss is not None), key=_loss)[:1]
    return newest if set(best) <= set(newest) else (*best, *newest[1:])


def _loss(checkpoint: Checkpoint) -> float:
    return math.inf if checkpoint.validation_loss is None else checkpoint.validation_loss
