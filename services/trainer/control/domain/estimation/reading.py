"""What a run reads: its steps, its tokens, and the largest part that it computes at once.

The engine's plan (`services/trainer/engine/plan.py`) works on the lengths of the examples. Here
only their number is known and how long they are on average, so that what depends on the lengths
themselves is bounded.
"""

import math
from dataclasses import dataclass

from services.trainer.control.domain.estimation.architecture import Architecture
from services.trainer.control.domain.settings import TrainingParameters

_BYTES_A_TOKEN = 4
_TEXT_A_STORED_BYTE = 2.8
"""Bytes of text a byte of the canonical file, which is compressed: 2.6 to 4.8 on five sets of chat
and instruction data."""
LONGEST_OVER_MEAN = 8
"""How much longer than the average an example is expected to be at most: the 99.9th percentile of
log-normal lengths with σ = 0.8 is 8.6 times their mean, and chat data has about that σ."""
_PADDING = 1.03
"""Padded tokens a token, where batches are cut from 50 batches' examples sorted by length."""
_LEFT_OVER = 0.8
"""Of a batch of so many tokens about half an example's length stays empty; the example that a
token is in has 1.6 times the mean length, for long ones have more tokens (σ = 0.7)."""
_LEAST_MULTIPLE, _MOST_MULTIPLE = 8, 64
_MOST = 2**62
"""Of steps and tokens: what is more is as impossible, and all of them stay 64-bit numbers."""


@dataclass(frozen=True)
class Cut:
    """Examples, none of which is longer than it may be: each gives so many `pieces`, of
    `mean_tokens` on average."""

    pieces: int
    mean_tokens: float


@dataclass(frozen=True)
class Examples:
    """`count` examples of `mean_tokens` tokens on average, as long as they may be if that is 0.
    Plain texts that are longer are split, conversations lose their end."""

    count: int
    mean_tokens: float
    are_texts: bool = False

    def cut(self, longest_allowed: int) -> Cut:
        """As if all were of the mean length. A piece of a text begins with the last token of the
        piece before it."""
        mean = max(1.0, self.mean_tokens or longest_allowed)
        if not self.are_texts or mean <= longest_allowed:
            return Cut(1, min(mean, longest_allowed))
        pieces = math.ceil((mean - 1) / max(1, longest_allowed - 1))
        return Cut(pieces, (mean + pieces - 1) / pieces)


@dataclass(frozen=True)
class Part:
    """What is computed at once: `tokens` with their padding, in rows of `row_tokens`."""

    tokens: int
    row_tokens: int


@dataclass(frozen=True)
class Reading:
    """`tokens` are learnt from in all `steps`, those of `evaluated_tokens` only looked at. There
    are `example_count` examples of `mean_tokens` on average once they are cut, the pieces of a text
    counted each."""

    steps: int
    example_count: int
    mean_tokens: float
    tokens: int
    evaluated_tokens: int
    largest: Part
    smallest: Part
    """What is left of a step when memory runs out again and again: an average example, for whether
    there is a longer one is not known."""
    has_parts: bool
    """A step is computed in several parts."""


def guessed_mean_tokens(size_bytes: int, example_count: int) -> float:
    """From the size of the dataset version's file: a token for every four bytes of text; 0 where
    the size is not known."""
    text_bytes = size_bytes * _TEXT_A_STORED_BYTE
    return text_bytes / _BYTES_A_TOKEN / max(1, example_count)


def reading(
    architecture: Architecture, training: TrainingParameters, examples: Examples
) -> Reading:
    allowed = longest_allowed(training, architecture)
    cut = examples.cut(allowed)
    mean = cut.mean_tokens
    longest = min(allowed, math.ceil(LONGEST_OVER_MEAN * mean))
    held_out = held_out_count(examples.count, training.validation_fraction) * cut.pieces
    learnt = learnt_count(examples.count, training.validation_fraction) * cut.pieces
    an_epoch = steps_an_epoch(training, learnt, mean)
    shortest = _padded(math.ceil(mean), allowed)
    steps = training.max_steps or steps_of_epochs(training.epochs, an_epoch)
    whole, largest = _parts(training, learnt, _padded(longest, allowed))
    return Reading(
        steps=min(steps, _MOST),
        example_count=examples.count * cut.pieces,
        mean_tokens=mean,
        tokens=min(round(steps * learnt * mean / an_epoch), _MOST),
        evaluated_tokens=round(_evaluations(training, steps) * held_out * mean),
        largest=largest,
        smallest=Part(shortest, shortest),
        has_parts=largest.tokens < whole,
    )


def longest_allowed(training: TrainingParameters, architecture: Architecture | None) -> int:
    """Tokens that an example may have, by the job and by the model's positions."""
    asked = training.max_sequence_tokens
    positions = architecture.position_limit if architecture else 0
    return min(asked, positions or asked)


def held_out_count(count: int, fraction: float) -> int:
    """Of so many examples; never all."""
    if fraction == 0 or count < 2:
        return 0
    return min(max(1, round(count * fraction)), count - 1)


def learnt_count(count: int, fraction: float) -> int:
    """Those that are not held out."""
    return max(1, count - held_out_count(count, fraction))


def steps_an_epoch(training: TrainingParameters, learnt: int, mean: float) -> int:
    """Of `learnt` examples of `mean` tokens each."""
    if not training.batch_tokens:
        return math.ceil(learnt / training.batch_size)
    filled = training.batch_tokens - _LEFT_OVER * mean
    fitting = max(1.0, filled / (mean * _PADDING))
    return math.ceil(learnt / fitting)


def steps_of_epochs(epochs: float, steps_an_epoch: int) -> int:
    whole, part = divmod(epochs, 1)
    return max(1, int(whole) * steps_an_epoch + math.ceil(part * steps_an_epoch))


def _evaluations(training: TrainingParameters, steps: int) -> int:
    return math.ceil(steps / training.evaluate_every) if training.evaluate_every else 1


def _parts(training: TrainingParameters, learnt: int, row: int) -> tuple[int, Part]:
    """The padded tokens of the largest step, and its largest part, in rows of so many tokens."""
    whole = max(training.batch_tokens, row) if training.batch_tokens else training.batch_size * row
    whole = min(whole, learnt * row)
    limit = training.micro_batch_tokens
    tokens = min(whole, max(limit, row)) if limit else whole
    return whole, Part(tokens, min(row, tokens))


def _padded(length: int, most: int) -> int:
    """As the engine pads rows of a batch."""
    multiple = 1 << max(0, length.bit_length() - 3)
    multiple = min(max(multiple, _LEAST_MULTIPLE), _MOST_MULTIPLE)
    return min(-(-length // multiple) * multiple, max(length, most))
