"""Batches, prepared ahead of the step in another thread."""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from services.trainer.engine.batches import Batch, Layout
from services.trainer.engine.errors import is_out_of_memory
from services.trainer.engine.examples import Example
from services.trainer.engine.plan import Plan, parts
from services.trainer.engine.team import Team


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """One process's part of a step. `batches` are computed one after the other; `weight`, that of
    all labeled tokens, and `tokens` are of the whole step, over all processes."""

    batches: tuple[Batch, ...]
    weight: float
    tokens: int


class Loader:
    """Gives the share of a step; while it is computed the next one is made ready, if it is to
    `prefetch`."""

    def __init__(
        self,
        examples: Sequence[Example],
        plan: Plan,
        layout: Layout,
        device: torch.device,
        team: Team,
        *,
        prefetch: bool = True,
    ) -> None:
        self._examples, self._plan, self._layout = examples, plan, layout
        self._device, self._team, self._prefetches = device, team, prefetch
        self._thread = ThreadPoolExecutor(1, "batches")
        self._ahead: tuple[tuple[int, int], Future[Share]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def share(self, step: int, limit: int) -> Share:
        """This process's batches of `step`, of at most `limit` padded tokens each (0: any)."""
        asked = (step, limit)
        share = self._made_ahead(asked) or self._make(*asked)
        if self._prefetches:
            following = (step + 1, limit)
            self._ahead = following, self._thread.submit(self._make, *following)
        return share

    def rows(self, step: int) -> list[int]:
        """The rows of the dataset that `step` sees."""
        return [self._examples[i].row for i in self._plan.batch(step)]

    def _made_ahead(self, asked: tuple[int, int]) -> Share | None:
        """None if another was foreseen, or if there was no memory for it beside the step before."""
        if self._ahead is None or self._ahead[0] != asked:
            return None
        made = self._ahead[1]
        error = made.exception()
        return None if error is not None and is_out_of_memory(error) else made.result()

    def _make(self, step: int, limit: int) -> Share:
        examples = [self._examples[i] for i in self._plan.batch(step)]
        batches = divided(examples, self._layout, self._device, self._team, limit)
        weight = sum(map(label_weight, examples))
        return Share(tuple(batches), weight, sum(map(len, examples)))


def divided(
    examples: Sequence[Example], layout: Layout, device: torch.device, team: Team, limit: int
) -> list[Batch]:
    """This process's part of the examples, which come shortest first, as batches of at most
    `limit` padded tokens (0: any number). Of processes in step each has as many as any other."""
    shares = parts([len(example) for example in examples], team.size, limit)
    batches = [layout(examples[run.start : run.stop], device) for run in shares[team.rank]]
    if team.in_step:
        missing = max(map(len, shares)) - len(batches)
        batches += [layout(examples[:1], device).silent() for _ in range(missing)]
    return batches


def count_labels(example: Example) -> int:
    """How many tokens the loss covers; the first is never predicted, but by an encoder."""
    counted = example.labeled if example.source_ids else example.labeled[1:]
    return sum(counted)


def label_weight(example: Example) -> float:
    """How much the loss counts those tokens together; their number where none is weighted."""
    if example.weights is None:
        return count_labels(example)
    return math.fsum(example.weights if example.source_ids else example.weights[1:])
