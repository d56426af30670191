"""Which steps of a run ask most of the memory."""

from collections.abc import Sequence

from services.trainer.engine.job import Job
from services.trainer.engine.loader import count_labels
from services.trainer.engine.plan import parts
from services.trainer.engine.preparation import Preparation

_LOOKED_AT = 50_000
"""Steps: what they hold varies little from epoch to epoch."""

Place = tuple[int, int]
"""A step, from 1, and the rank of a process."""


def largest_places(job: Job, ready: Preparation) -> list[Place]:
    """Where the part with the most tokens is computed, padding included, and where the part with
    the most labels; one place if that is the same."""
    labels = [count_labels(example) for example in ready.examples.training]
    most_tokens = most_labels = (0, (1, 0))
    for step in range(1, min(ready.total_steps, _LOOKED_AT) + 1):
        batch = ready.plan.batch(step)
        lengths = [ready.plan.lengths[i] for i in batch]
        shares = parts(lengths, job.processes, job.training.micro_batch_tokens)
        for rank, share in enumerate(shares):
            for run in share:
                place = (step, rank)
                tokens = _tokens(lengths[run.start : run.stop], job.training.packing)
                counted = sum(labels[batch[i]] for i in run)
                most_tokens = max(most_tokens, (tokens, place), key=_amount)
                most_labels = max(most_labels, (counted, place), key=_amount)
    return sorted({most_tokens[1], most_labels[1]})


def trained_tokens(ready: Preparation) -> int:
    """Tokens of all steps, padding apart."""
    plan, last = ready.plan, ready.total_steps
    whole = int(plan.epochs_done(last))
    tokens = whole * sum(plan.lengths)
    step = last
    while step > 0 and plan.epochs_done(step) > whole:
        tokens += sum(plan.lengths[i] for i in plan.batch(step))
        step -= 1
    return tokens


def _amount(found: tuple[int, Place]) -> int:
    return found[0]


def _tokens(lengths: Sequence[int], packing: bool) -> int:
    """Of a part, whose lengths rise."""
    return sum(lengths) if packing else lengths[-1] * len(lengths)
