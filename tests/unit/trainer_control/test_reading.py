"""Steps, tokens and the largest part, beside what the engine's plan makes of real lengths."""

import random
from typing import Any

import pytest

from services.trainer.control.domain.estimation.reading import (
    Examples,
    Part,
    guessed_mean_tokens,
    reading,
)
from services.trainer.control.domain.settings import TrainingParameters
from services.trainer.engine.plan import Plan, parts
from tests.unit.trainer_control.proposals import llama

LENGTHS = [min(400, max(20, int(random.Random(i).lognormvariate(4.5, 0.75)))) for i in range(1800)]
MEAN = sum(LENGTHS) / len(LENGTHS)


def read(count: int = 2000, mean: float = MEAN, **training: Any) -> Any:
    return reading(llama(), TrainingParameters(**training), Examples(count, mean))


@pytest.mark.parametrize("epochs", [0.5, 1.0, 2.25])
@pytest.mark.parametrize("batches", [{"batch_size": 7}, {"batch_tokens": 1035}])
def test_steps_and_tokens_are_those_of_the_plan(epochs: float, batches: dict[str, int]) -> None:
    plan = Plan(tuple(LENGTHS), 0, batches.get("batch_size", 8), batches.get("batch_tokens", 0))
    found = read(epochs=epochs, **batches)  # a tenth of the 2,000 is held out

    assert found.steps == pytest.approx(plan.total_steps(0, epochs), rel=0.05)
    assert found.tokens == pytest.approx(epochs * sum(LENGTHS), rel=0.05)


def test_batches_of_examples_are_counted_exactly() -> None:
    for count, size, epochs in ((1, 8, 1.0), (17, 4, 3.0), (18, 3, 1.5), (2, 2, 0.1)):
        plan = Plan((10,) * max(1, count - (count > 1)), 0, size)
        found = read(count, 10, batch_size=size, epochs=epochs, validation_fraction=0.01)
        assert found.steps == plan.total_steps(0, epochs)
    assert read(max_steps=77).steps == 77


def test_the_largest_part_is_no_smaller_than_any_of_the_plan() -> None:
    settings: list[dict[str, int]] = [
        {"batch_size": 8},
        {"batch_tokens": 1035},
        {"batch_size": 8, "micro_batch_tokens": 600},
        {"batch_tokens": 2000, "micro_batch_tokens": 100},
    ]
    for chosen in settings:
        plan = Plan(tuple(LENGTHS), 0, chosen.get("batch_size", 8), chosen.get("batch_tokens", 0))
        found = read(**chosen)
        limit = chosen.get("micro_batch_tokens", 0)
        cut = [
            [LENGTHS[i] for i in plan.batch(step)][run.stop - 1] * len(run)
            for step in range(1, 200)
            for run in parts([LENGTHS[i] for i in plan.batch(step)], 1, limit)[0]
        ]
        assert max(cut) <= found.largest.tokens <= 512 * 8
        assert found.has_parts == bool(limit)


def test_no_part_is_larger_than_all_that_there_is() -> None:
    assert read(2, 100, batch_tokens=1_000_000, max_sequence_tokens=128).largest == Part(128, 128)


def test_an_example_is_as_long_as_the_job_and_the_model_let_it_be() -> None:
    assert read(mean=5000.0, max_sequence_tokens=300, batch_size=1).largest == Part(300, 300)
    assert read(mean=0, max_sequence_tokens=300).mean_tokens == 300
    assert read(mean=50_000.0, max_sequence_tokens=100_000).mean_tokens == 8192
    assert read(mean=10.0, max_sequence_tokens=512, batch_size=1).largest == Part(80, 80)


@pytest.mark.parametrize("length", [1, 300, 512, 513, 1023, 1024, 100_000])
def test_texts_are_split_as_the_encoder_splits_them(length: int) -> None:
    """A piece begins with the last token of the piece before it."""
    text = range(length)
    pieces = [text[start : start + 512] for start in range(0, max(1, length - 1), 511)]
    found = reading(
        llama(),
        TrainingParameters(epochs=1, batch_size=1, validation_fraction=0),
        Examples(10, float(length), are_texts=True),
    )
    assert found.steps == found.example_count == 10 * len(pieces)
    assert found.tokens == 10 * sum(map(len, pieces))
    assert found.largest.row_tokens <= 512


def test_texts_are_held_out_whole() -> None:
    training = TrainingParameters(epochs=1, batch_size=1, evaluate_every=0)
    found = reading(llama(), training, Examples(10, 511.0 * 20 + 1, are_texts=True))
    assert found.steps == 9 * 20
    assert found.evaluated_tokens == 20 * 512
    alone = reading(llama(), training, Examples(1, 511.0 * 20 + 1, are_texts=True))
    assert (alone.steps, alone.evaluated_tokens) == (20, 0)


def test_held_out_examples_are_looked_at_at_each_evaluation() -> None:
    assert read(100, 10, max_steps=95, evaluate_every=50).evaluated_tokens == 2 * 10 * 10
    assert read(100, 10, max_steps=95, evaluate_every=0).evaluated_tokens == 10 * 10
    assert read(100, 10, max_steps=95, validation_fraction=0).evaluated_tokens == 0


def test_the_mean_is_guessed_from_the_size_of_the_file() -> None:
    assert guessed_mean_tokens(4000, 10) == pytest.approx(280)
    assert guessed_mean_tokens(0, 10) == 0
