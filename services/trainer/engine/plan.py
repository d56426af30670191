"""Which examples form which step: a pure function of the lengths, the seed and the step.

Nothing here remembers anything, so a resumed run asks for the step it stands at and gets what
the undisturbed run would have got.
"""

import hashlib
import json
import math
import random
from dataclasses import dataclass
from functools import lru_cache

Batch = tuple[int, ...]
"""Positions of examples, shortest first."""

# Batches are cut from windows of this many, sorted by length: little padding, random company.
_WINDOW_BATCHES = 50


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The order of training. `lengths[i]` is the token count of example i; at least one."""

    lengths: tuple[int, ...]
    seed: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def total_steps(self, max_steps: int, epochs: float) -> int:
        """`max_steps`, or if that is 0 as many as `epochs` need; at least one."""
        return max_steps or max(1, math.ceil(epochs * self.steps_per_epoch))

    def epochs_done(self, step: int) -> float:
        """Passes over the data that lie behind after `step`."""
        return step / self.steps_per_epoch

    def batch(self, step: int) -> Batch:
        """The examples of `step`, which counts from 1. Each epoch holds every example once."""
        epoch, index = divmod(step - 1, self.steps_per_epoch)
        return _epoch_batches(self, epoch)[index]

    @property
    def digest(self) -> str:
        """A sha256 that two plans share only if they order the same examples alike."""
        state = json.dumps([_WINDOW_BATCHES, self.seed, self.batch_size, self.lengths])
        first_epoch = json.dumps(_epoch_batches(self, 0))
        return hashlib.sha256(f"{state}\n{first_epoch}".encode()).hexdigest()


def shuffled(count: int, *key: int | str) -> list[int]:
    """0 … count-1 in an order that depends on `key` alone, on every machine and version.

    (Python promises the sequence of `Random(str).random()` for ever, that of `shuffle` not.)
    """
    generator = random.Random("/".join(map(str, key)))
    ranks = [generator.random() for _ in range(count)]
    return sorted(range(count), key=ranks.__getitem__)


@lru_cache(maxsize=2)
def _epoch_batches(plan: Plan, epoch: int) -> tuple[Batch, ...]:
    order = shuffled(len(plan.lengths), plan.seed, "epoch", epoch)
    window = plan.batch_size * _WINDOW_BATCHES
    batches: list[Batch] = []
    for start in range(0, len(order), window):
        by_length = sorted(order[start : start + window], key=plan.lengths.__getitem__)
        batches.extend(
            tuple(by_length[i : i + plan.batch_size])
            for i in range(0, len(by_length), plan.batch_size)
        )
    return tuple(batches[i] for i in shuffled(len(batches), plan.seed, "batches", epoch))
