"""The values that `auto` chooses: those of docs/hyperparameters.md."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.control.domain.automatic import resolved
from services.trainer.control.domain.estimation.architecture import Architecture
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.methods import METHODS
from services.trainer.control.domain.settings import (
    JobSettings,
    TrainingParameters,
    checked_settings,
)
from tests.unit.trainer_control.proposals import llama

TINY = llama(hidden=256, inner=704, layers=4, heads=4, key_heads=2)
SUPPORT = Examples(374, 60.0)
LARGE = Examples(50_000, 400.0)
TRAINING: dict[str, st.SearchStrategy[Any]] = {
    "max_steps": st.integers(1, 10_000_000),
    "epochs": st.floats(0.01, 1000),
    "batch_size": st.integers(1, 4096),
    "batch_tokens": st.integers(1, 16_777_216),
    "micro_batch_tokens": st.integers(1, 16_777_216),
    "learning_rate": st.floats(1e-9, 1),
    "warmup_steps": st.integers(0, 1_000_000),
    "max_sequence_tokens": st.integers(8, 1_048_576),
    "validation_fraction": st.floats(0, 0.5),
    "evaluate_every": st.integers(0, 2**31 - 1),
    "checkpoint_every": st.integers(0, 2**31 - 1),
}


def chosen(
    method: str = "lora",
    model: Architecture | None = TINY,
    examples: Examples = SUPPORT,
    backend: str = "BUILTIN",
    **training: Any,
) -> TrainingParameters:
    given = {"auto": True, **training}
    asked = {"method": {"kind": method}, "backend": backend, "training": given}
    return resolved(checked_settings(asked), model, examples).training


def values(training: TrainingParameters, *fields: str) -> tuple[object, ...]:
    return tuple(getattr(training, field) for field in fields)


@pytest.mark.parametrize(
    ("method", "tiny", "large", "unknown"),
    [
        ("full", 2.5e-4, 2.9e-5, 2e-5),
        ("lora", 2.5e-3, 2.9e-4, 2e-4),
        ("qlora", 2.5e-3, 2.9e-4, 2e-4),
        ("prefix", 0.15, 1.7e-2, 3e-2),
        ("adapter", 5e-3, 5.7e-4, 1e-3),
    ],
)
def test_the_learning_rate_falls_with_the_width_of_the_model(
    method: str, tiny: float, large: float, unknown: float
) -> None:
    assert chosen(method, TINY).learning_rate == tiny
    assert chosen(method, llama()).learning_rate == large
    assert chosen(method, None).learning_rate == unknown


def test_it_falls_less_in_models_of_the_qwen_family() -> None:
    qwen = llama().model_copy(update={"model_type": "qwen3"})
    assert chosen("lora", qwen).learning_rate == 4.7e-4


@pytest.mark.parametrize(
    ("count", "batch_size", "epochs"),
    [
        (1, 8, 10),
        (100, 8, 10),
        (374, 8, 7),
        (1_000, 16, 6),
        (2_000, 32, 6),
        (5_000, 64, 5),
        (10_000, 64, 3),
        (50_000, 64, 1),
        (10_000_000, 64, 1),
    ],
)
def test_few_examples_are_seen_more_often_and_in_smaller_steps(
    count: int, batch_size: int, epochs: float
) -> None:
    training = chosen(examples=Examples(count, 100.0))
    assert (training.batch_size, training.epochs) == (batch_size, epochs)


def test_a_small_run_on_a_tiny_model() -> None:
    """337 of 374 examples are learnt: 43 steps an epoch, 301 in all."""
    training = chosen()
    assert values(training, "warmup_steps", "evaluate_every", "checkpoint_every") == (10, 31, 31)
    assert training.max_sequence_tokens == 512
    assert training.early_stopping_patience == 3
    assert training.validation_fraction == 0.1
    assert training.auto


def test_a_large_run_on_a_model_of_eight_billion_parameters() -> None:
    """49,000 of 50,000 examples are learnt: 766 steps, once."""
    training = chosen("qlora", llama(), LARGE)
    assert values(training, "warmup_steps", "evaluate_every", "checkpoint_every") == (23, 77, 77)
    assert training.max_sequence_tokens == 2048
    assert training.early_stopping_patience == 0
    assert training.validation_fraction == 0.02
    assert training.micro_batch_tokens == 8192


def test_long_examples_are_given_room_up_to_the_models_positions() -> None:
    assert chosen(model=llama(), examples=Examples(100, 128.0)).max_sequence_tokens == 512
    assert chosen(model=llama(), examples=Examples(100, 129.0)).max_sequence_tokens == 1024
    assert chosen(model=llama(), examples=Examples(100, 9000.0)).max_sequence_tokens == 8192
    short = llama().model_copy(update={"position_limit": 100})
    assert chosen(model=short).max_sequence_tokens == 100
    assert chosen(model=None, examples=Examples(100, 0.0)).max_sequence_tokens == 512


def test_texts_are_split_whatever_their_length() -> None:
    """Ten books of 100,000 tokens: nine are learnt, in 196 pieces of 511 tokens each."""
    training = chosen(model=llama(), examples=Examples(10, 1e5, are_texts=True))
    assert training.max_sequence_tokens == 512
    assert (training.batch_size, training.epochs) == (32, 6)
    assert values(training, "warmup_steps", "evaluate_every", "checkpoint_every") == (11, 34, 34)


def test_no_more_of_texts_is_held_out_than_of_other_examples() -> None:
    """One text of 5,000 has the thousand pieces."""
    texts = Examples(5000, 511_001.0, are_texts=True)
    assert chosen(examples=texts).validation_fraction == 2e-4


def test_steps_that_are_told_are_divided_as_those_of_epochs_are() -> None:
    training = chosen(max_steps=1000)
    assert values(training, "warmup_steps", "evaluate_every", "checkpoint_every") == (30, 100, 100)
    assert training.epochs == 3.0  # as without auto: it does not count


def test_steps_of_a_token_budget_are_counted_by_the_examples_they_hold() -> None:
    """A budget of 5,000 tokens holds about 80 examples of 60: 5 steps an epoch."""
    assert chosen(batch_tokens=5000).epochs == 10
    assert chosen(batch_tokens=5000).warmup_steps == 2


@pytest.mark.parametrize(
    "told", [{"validation_fraction": 0.0}, {"evaluate_every": 0}, {"epochs": 1.0}]
)
def test_nothing_is_stopped_early_without_evaluations_or_repeated_examples(
    told: dict[str, Any],
) -> None:
    assert chosen(**told).early_stopping_patience == 0


@pytest.mark.parametrize("backend", ["UNSLOTH", "AXOLOTL"])
def test_nothing_is_asked_of_a_tool_that_it_can_not_do(backend: str) -> None:
    assert chosen(backend=backend).early_stopping_patience == 0


def test_without_auto_everything_stays() -> None:
    asked = checked_settings({"method": {"kind": "lora"}})
    assert resolved(asked, TINY, SUPPORT) is asked


def test_what_was_chosen_is_read_again_as_it_was_kept() -> None:
    asked = checked_settings({"method": {"kind": "lora"}, "training": {"auto": True}})
    made = resolved(asked, TINY, SUPPORT)
    again = JobSettings.model_validate(made.model_dump(mode="json"))
    assert again == made
    assert resolved(again, llama(), LARGE) == made


@settings(deadline=None, derandomize=True, database=None)
@given(
    method=st.sampled_from([method().kind for method in METHODS]),
    told=st.fixed_dictionaries({}, optional=TRAINING),
    count=st.integers(0, 10**12),
    mean_tokens=st.floats(0, 1e7),
    are_texts=st.booleans(),
    positions=st.integers(0, 2**31 - 1),
    hidden=st.integers(1, 2**24),
)
def test_any_mix_stays_within_the_limits_and_keeps_what_was_told(
    method: str,
    told: dict[str, Any],
    count: int,
    mean_tokens: float,
    are_texts: bool,
    positions: int,
    hidden: int,
) -> None:
    shape = {"position_limit": positions, "hidden_size": hidden}
    model = TINY.model_copy(update=shape)
    training = chosen(method, model, Examples(count, mean_tokens, are_texts), **told)

    for field, value in told.items():
        assert getattr(training, field) == value
    whole = {"method": {"kind": method}, "training": training.model_dump()}
    assert checked_settings(whole).training == training
    assert training.learning_rate is not None
    if not told.keys() & {"max_steps", "epochs"}:
        assert 1 <= training.epochs <= 10
    if positions >= 8 and "max_sequence_tokens" not in told:
        assert training.max_sequence_tokens <= positions
