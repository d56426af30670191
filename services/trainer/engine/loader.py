"""Batches, prepared ahead of the step in another thread."""

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
    """One process's part of a step. `batches` are computed one after the other; `labels` and
    `tokens` count those of the whole step, over all processes."""

    batches: tuple[Batch, ...]
    labels: int
    tokens: int


class Loader:
    """Gives the share of a step; while it is computed the next one is made ready."""

    def __init__(
        self,
        examples: Sequence[Example],
        plan: Plan,
        layout: Layout,
        device: torch.device,
        team: Team,
    ) -> None:
        self._examples, self._plan, self._layout = examples, plan, layout
        self._device, self._team = device, team
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
        labels = sum(map(count_labels, examples))
        return Share(tuple(batches), labels, sum(map(len, examples)))


def divided(
    examples: Sequence[Example], layout: Layout, device: torch.device, team: Team, limit: int
) -> list[Batch]:
    """This process's part of the examples, which come shortest first, as batches of at most
    `limit` padded tokens (0: any number)."""
    runs = parts([len(example) for example in examples], team.size, limit)[team.rank]
    return [layout(examples[run.start : run.stop], device) for run in runs]


def count_labels(example: Example) -> int:
    """How many tokens the loss covers; the first is never predicted, but by an encoder."""
    counted = example.labeled if example.source_ids else example.labeled[1:]
    return sum(counted)
