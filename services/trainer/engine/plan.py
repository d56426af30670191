"""Which examples form which step: a pure function of the lengths, the seed and the step.

Nothing here remembers anything that a resumed run would lack: it asks for the step it stands at
and gets what the undisturbed run would have got.
"""

import hashlib
import json
import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

Indices = tuple[int, ...]
"""Positions of examples, shortest first."""

# Batches are cut from windows of about this many, sorted by length: little padding, random company.
_WINDOW_BATCHES = 50


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The order of training. `lengths[i]` is the token count of example i; at least one.

    A step holds `batch_size` examples, or if `batch_tokens` is above 0 as many as fit into that
    many tokens with their padding, at least one: of like length, unless `group_by_length` is false.
    """

    lengths: tuple[int, ...]
    seed: int
    batch_size: int
    batch_tokens: int = 0
    group_by_length: bool = True
    _starts: list[int] = field(default_factory=lambda: [0], init=False, repr=False)
    """The number of steps before each epoch; grows as later ones are asked for."""

    def total_steps(self, max_steps: int, epochs: float) -> int:
        """`max_steps`, or if that is 0 as many as `epochs` need; at least one."""
        if max_steps:
            return max_steps
        whole, part = divmod(epochs, 1)
        last = self._steps_in(int(whole)) if part else 0
        return max(1, self._start(int(whole)) + math.ceil(part * last))

    def epochs_done(self, step: int) -> float:
        """Passes over the data that lie behind after `step`."""
        epoch, index = self._place(step + 1)
        return epoch + index / self._steps_in(epoch)

    def batch(self, step: int) -> Indices:
        """The examples of `step`, which counts from 1. Each epoch holds every example once."""
        epoch, index = self._place(step)
        return _epoch_batches(self, epoch)[index]

    @property
    def window_batches(self) -> int:
        """From how many batches' worth of examples, drawn together, each one is cut."""
        return _WINDOW_BATCHES if self.group_by_length else 1

    @property
    def digest(self) -> str:
        """A sha256 that two plans share only if they order the same examples alike."""
        state = json.dumps(
            [self.window_batches, self.seed, self.batch_size, self.batch_tokens, self.lengths]
        )
        first_epoch = json.dumps(_epoch_batches(self, 0))
        return hashlib.sha256(f"{state}\n{first_epoch}".encode()).hexdigest()

    def _place(self, step: int) -> tuple[int, int]:
        """The epoch of a step and its index in it, both from 0."""
        while self._starts[-1] < step:
            self._start(len(self._starts))
        epoch = bisect_right(self._starts, step - 1) - 1
        return epoch, step - 1 - self._starts[epoch]

    def _start(self, epoch: int) -> int:
        while len(self._starts) <= epoch:
            steps = self._steps_in(len(self._starts) - 1)
            self._starts.append(self._starts[-1] + steps)
        return self._starts[epoch]

    def _steps_in(self, epoch: int) -> int:
        """Counted by tokens, epochs differ by their order; else it needs not be known."""
        if self.batch_tokens:
            return len(_epoch_batches(self, epoch))
        return math.ceil(len(self.lengths) / self.batch_size)


def shuffled(count: int, *key: int | str) -> list[int]:
    """0 … count-1 in an order that depends on `key` alone, on every machine and version.

    (Python promises the sequence of `Random(str).random()` for ever, that of `shuffle` not.)
    """
    generator = random.Random("/".join(map(str, key)))
    ranks = [generator.random() for _ in range(count)]
    return sorted(range(count), key=ranks.__getitem__)


def parts(lengths: Sequence[int], shares: int, limit: int) -> list[list[range]]:
    """Divides a batch of these lengths, which rise, among `shares` processes, about evenly; each
    share into parts of at most `limit` padded tokens (0: any number), but at least one example.
    """
    groups = _spread(lengths, shares) if shares > 1 else [range(len(lengths))]
    groups += [range(0)] * (shares - len(groups))
    return [_cut(lengths, group, limit) if limit else [group] * bool(group) for group in groups]


def _spread(lengths: Sequence[int], shares: int) -> list[range]:
    """At most `shares` runs of neighbours of which the costliest has as little padded as can be."""
    low, high = max(lengths), max(lengths) * len(lengths)
    everything = range(len(lengths))
    while low < high:
        middle = (low + high) // 2
        if len(_cut(lengths, everything, middle)) <= shares:
            high = middle
        else:
            low = middle + 1
    return _cut(lengths, everything, low)


def _cut(lengths: Sequence[int], group: range, limit: int) -> list[range]:
    """Runs of neighbours, each as long as `limit` padded tokens allow and not empty."""
    runs: list[range] = []
    start = group.start
    for i in group:
        if i > start and lengths[i] * (i + 1 - start) > limit:
            runs.append(range(start, i))
            start = i
    if start < group.stop:
        runs.append(range(start, group.stop))
    return runs


@lru_cache(maxsize=2)
def _epoch_batches(plan: Plan, epoch: int) -> tuple[Indices, ...]:
    order = shuffled(len(plan.lengths), plan.seed, "epoch", epoch)
    window = _examples_a_batch(plan) * plan.window_batches
    batches: list[Indices] = []
    for start in range(0, len(order), window):
        by_length = sorted(order[start : start + window], key=plan.lengths.__getitem__)
        batches.extend(_batches(plan, by_length))
    return tuple(batches[i] for i in shuffled(len(batches), plan.seed, "batches", epoch))


def _batches(plan: Plan, by_length: list[int]) -> list[Indices]:
    if not plan.batch_tokens:
        size = plan.batch_size
        return [tuple(by_length[i : i + size]) for i in range(0, len(by_length), size)]
    lengths = [plan.lengths[i] for i in by_length]
    runs = _cut(lengths, range(len(lengths)), plan.batch_tokens)
    return [tuple(by_length[run.start : run.stop]) for run in runs]


def _examples_a_batch(plan: Plan) -> int:
    if not plan.batch_tokens:
        return plan.batch_size
    return max(1, plan.batch_tokens * len(plan.lengths) // sum(plan.lengths))
