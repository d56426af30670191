"""The limits that the proto's comments state, at and beyond each edge."""

import math

import pytest

from services.common.faults import InvalidArgument
from services.trainer.control.domain.settings import checked_settings

LORA = [
    ("rank", 1, 512, 0, 513),
    ("alpha", 1e-9, 4096, 0, 4096.1),
    ("dropout", 0, 0.999, -0.1, 1),
]
TRAINING = [
    ("max_steps", 0, 10_000_000, -1, 10_000_001),
    ("epochs", 0.01, 1000, 0, 1000.1),
    ("batch_size", 1, 4096, 0, 4097),
    ("learning_rate", 1e-9, 1, 0, 1.1),
    ("warmup_steps", 0, 1_000_000, -1, 1_000_001),
    ("weight_decay", 0, 1, -0.1, 1.1),
    ("max_gradient_norm", 0, 1000, -1, 1000.1),
    ("max_sequence_tokens", 8, 1_048_576, 7, 1_048_577),
    ("validation_fraction", 0, 0.5, -0.1, 0.51),
]


def faults(given: dict[str, object]) -> list[str]:
    with pytest.raises(InvalidArgument) as refusal:
        checked_settings(given)
    return [violation.field for violation in refusal.value.violations]


@pytest.mark.parametrize(("field", "low", "high", "below", "above"), TRAINING)
def test_training_parameters_are_held_to_their_limits(
    field: str, low: float, high: float, below: float, above: float
) -> None:
    for good in (low, high):
        training = checked_settings({"lora": {}, "training": {field: good}}).training
        assert getattr(training, field) == good
    for bad in (below, above, math.nan, math.inf):
        assert faults({"lora": {}, "training": {field: bad}}) == [f"tuning_job.training.{field}"]


@pytest.mark.parametrize(("field", "low", "high", "below", "above"), LORA)
def test_lora_is_held_to_its_limits(
    field: str, low: float, high: float, below: float, above: float
) -> None:
    for good in (low, high):
        assert getattr(checked_settings({"lora": {field: good}}).lora, field) == good
    for bad in (below, above, math.nan):
        assert faults({"lora": {field: bad}}) == [f"tuning_job.lora.{field}"]


@pytest.mark.parametrize("field", ["evaluate_every", "checkpoint_every"])
def test_intervals_are_not_negative(field: str) -> None:
    assert faults({"lora": {}, "training": {field: -1}}) == [f"tuning_job.training.{field}"]


@pytest.mark.parametrize("attempts", [0, 21, -1])
def test_attempts_are_1_to_20(attempts: int) -> None:
    assert faults({"lora": {}, "max_attempts": attempts}) == ["tuning_job.max_attempts"]


def test_modules_are_named_by_the_last_part_of_their_name() -> None:
    assert faults({"lora": {"target_modules": ("layers.q_proj",)}}) == [
        "tuning_job.lora.target_modules.0"
    ]
    assert faults({"lora": {"target_modules": ("q",) * 65}}) == ["tuning_job.lora.target_modules"]


def test_labels_are_few_and_short() -> None:
    many = {f"k{number}": "v" for number in range(33)}
    assert faults({"lora": {}, "labels": many}) == ["tuning_job.labels"]
    assert faults({"lora": {}, "labels": {"k": "v" * 64}}) == ["tuning_job.labels.k"]
    assert faults({"lora": {}, "labels": {"k": "a\0b"}}) == ["tuning_job.labels.k"]
    assert checked_settings({"lora": {}, "labels": {"k" * 63: "v" * 63}}).labels


def test_an_unknown_schedule_is_refused() -> None:
    assert faults({"lora": {}, "training": {"schedule": "9"}}) == ["tuning_job.training.schedule"]
