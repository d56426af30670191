"""The limits that the proto's comments state, at and beyond each edge."""

import math

import pytest

from services.common.faults import InvalidArgument, Violation
from services.trainer.control.domain.settings import JobSettings, checked_settings

LOW_RANK = [
    ("rank", 1, 512, 0, 513),
    ("alpha", 1e-9, 4096, 0, 4096.1),
    ("dropout", 0, 0.999, -0.1, 1),
]
METHODS = [
    *(("lora", *limits) for limits in LOW_RANK),
    *(("qlora", *limits) for limits in LOW_RANK),
    ("qlora", "bits", 4, 8, 3, 16),
    ("prefix", "prefix_length", 1, 4096, 0, 4097),
    ("prefix", "projection_size", 0, 16_384, -1, 16_385),
    ("adapter", "adapter_size", 1, 16_384, 0, 16_385),
    ("adapter", "dropout", 0, 0.999, -0.1, 1),
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
    ("batch_tokens", 0, 16_777_216, -1, 16_777_217),
    ("micro_batch_tokens", 0, 16_777_216, -1, 16_777_217),
    ("early_stopping_patience", 0, 1000, -1, 1001),
    ("keep_last_checkpoints", 1, 1000, 0, 1001),
    ("sample_count", 0, 16, -1, 17),
    ("sample_max_tokens", 1, 512, 0, 513),
]


def with_method(kind: str = "lora", **fields: object) -> dict[str, object]:
    return {"method": {"kind": kind, **fields}}


def with_training(**fields: object) -> dict[str, object]:
    return {**with_method(), "training": fields}


def violations(given: dict[str, object]) -> list[Violation]:
    with pytest.raises(InvalidArgument) as refusal:
        checked_settings(given)
    return list(refusal.value.violations)


def faults(given: dict[str, object]) -> list[str]:
    return [violation.field for violation in violations(given)]


@pytest.mark.parametrize(("field", "low", "high", "below", "above"), TRAINING)
def test_training_parameters_are_held_to_their_limits(
    field: str, low: float, high: float, below: float, above: float
) -> None:
    for good in (low, high):
        training = checked_settings(with_training(**{field: good})).training
        assert getattr(training, field) == good
    for bad in (below, above, math.nan, math.inf):
        assert faults(with_training(**{field: bad})) == [f"tuning_job.training.{field}"]


@pytest.mark.parametrize(("kind", "field", "low", "high", "below", "above"), METHODS)
def test_each_method_is_held_to_its_limits(
    kind: str, field: str, low: float, high: float, below: float, above: float
) -> None:
    for good in (low, high):
        method = checked_settings(with_method(kind, **{field: good})).method
        assert getattr(method, field) == good
    for bad in (below, above, math.nan):
        assert faults(with_method(kind, **{field: bad})) == [f"tuning_job.{kind}.{field}"]


@pytest.mark.parametrize(
    "field", ["evaluate_every", "checkpoint_every", "keep_checkpoint_every", "packing"]
)
def test_what_counts_steps_is_not_negative_and_a_switch_is_on_or_off(field: str) -> None:
    assert faults(with_training(**{field: -1})) == [f"tuning_job.training.{field}"]


@pytest.mark.parametrize("attempts", [0, 21, -1])
def test_attempts_are_1_to_20(attempts: int) -> None:
    assert faults({**with_method(), "max_attempts": attempts}) == ["tuning_job.max_attempts"]


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_modules_are_named_by_the_last_part_of_their_name(kind: str) -> None:
    assert faults(with_method(kind, target_modules=("layers.q_proj",))) == [
        f"tuning_job.{kind}.target_modules.0"
    ]
    assert faults(with_method(kind, target_modules=("q",) * 65)) == [
        f"tuning_job.{kind}.target_modules"
    ]


def test_labels_are_few_and_short() -> None:
    def labelled(labels: dict[str, str]) -> dict[str, object]:
        return {**with_method(), "labels": labels}

    many = {f"k{number}": "v" for number in range(33)}
    assert faults(labelled(many)) == ["tuning_job.labels"]
    assert faults(labelled({"k": "v" * 64})) == ["tuning_job.labels.k"]
    assert faults(labelled({"k": "a\0b"})) == ["tuning_job.labels.k"]
    assert checked_settings(labelled({"k" * 63: "v" * 63})).labels


@pytest.mark.parametrize(
    "field", ["schedule", "precision", "gradient_checkpointing", "long_examples"]
)
def test_an_unknown_word_is_refused(field: str) -> None:
    assert faults(with_training(**{field: "9"})) == [f"tuning_job.training.{field}"]


@pytest.mark.parametrize("field", ["placement", "activation"])
def test_an_unknown_word_of_a_method_is_refused(field: str) -> None:
    assert faults(with_method("adapter", **{field: "9"})) == [f"tuning_job.adapter.{field}"]


def test_a_method_is_asked_for_by_the_names_of_all_of_them() -> None:
    assert violations({"training": {"batch_size": 0}}) == [
        Violation(
            "tuning_job.method", "set one of full, lora, qlora, prefix and adapter", "MISSING"
        ),
        *violations(with_training(batch_size=0)),
    ]


@pytest.mark.parametrize(
    ("kind", "rate"),
    [("full", 2e-5), ("lora", 2e-4), ("qlora", 2e-4), ("prefix", 3e-2), ("adapter", 1e-3)],
)
def test_the_learning_rate_is_the_caller_s_or_the_method_s(kind: str, rate: float) -> None:
    untold = with_method(kind)
    assert checked_settings(untold).training.learning_rate == rate
    assert checked_settings({**untold, "training": {}}).training.learning_rate == rate
    told = {**untold, "training": {"learning_rate": 0.5}}
    assert checked_settings(told).training.learning_rate == 0.5


@pytest.mark.parametrize("lacking", ["evaluate_every", "validation_fraction"])
def test_stopping_early_needs_evaluations(lacking: str) -> None:
    (violation,) = violations(with_training(early_stopping_patience=3, **{lacking: 0}))
    assert violation.field == "tuning_job.training.early_stopping_patience"
    assert violation.description == f"needs {lacking} above 0"
    assert checked_settings(with_training(early_stopping_patience=0, **{lacking: 0}))


@pytest.mark.parametrize("kind", ["full", "lora", "qlora", "prefix", "adapter"])
def test_settings_that_were_kept_are_read_as_they_were(kind: str) -> None:
    settings = checked_settings(with_method(kind))
    assert JobSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_a_job_is_trained_by_anneal_itself_unless_it_says_otherwise() -> None:
    assert checked_settings(with_method("prefix")).backend == "BUILTIN"


def test_a_backend_that_nobody_knows_is_refused_beside_a_method_out_of_range() -> None:
    given = {**with_method("lora", rank=0), "backend": "99"}
    assert set(faults(given)) == {"tuning_job.lora.rank", "tuning_job.backend"}
