"""The hyperparameters that `auto` chooses: the rules of docs/hyperparameters.md.

A rule gives one field from what the caller has set, from the fields before it, and from what is
known of the job. None looks at a device: the same job gets the same values everywhere.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.trainer.control.domain.estimation.architecture import Architecture
from services.trainer.control.domain.estimation.reading import (
    Cut,
    Examples,
    held_out_count,
    learnt_count,
    longest_allowed,
    steps_an_epoch,
    steps_of_epochs,
)
from services.trainer.control.domain.methods import Method
from services.trainer.control.domain.settings import Backend, JobSettings, TrainingParameters

_WIDTH = 2000
_RATES_AT_WIDTH = {"full": 5e-5, "lora": 5e-4, "qlora": 5e-4, "prefix": 3e-2, "adapter": 1e-3}
"""Peak learning rates of a model of that width. The first three are published (Schulman and
Thinking Machines 2025, "LoRA Without Regret": LoRA's is ten times that of full), the last two are
the usual ones of their papers, which trained models of about that width."""
_NARROWING = 0.781
_NARROWING_OF_QWEN = 0.0775
"""By which power of the width the rate falls, as published with them (the Tinker cookbook's
`hyperparam_utils`); the first was fitted on Llamas, and is taken for all other families."""

_STEPS_AN_EPOCH = 50
_LEAST_BATCH, _MOST_BATCH = 8, 64
"""LoRA learns less from larger batches ("LoRA Without Regret")."""
_STEPS_A_RUN = 300
_MOST_EPOCHS = 10
"""Of clean data even 15 serve (LIMA, arXiv:2305.11206: 1,000 examples)."""
_WARMUP_SHARE = 0.03
"""As of QLoRA (arXiv:2305.14314) and Alpaca."""
_USUAL_SHARE_HELD_OUT = 0.1
_MOST_HELD_OUT = 1000
_EVALUATIONS_A_RUN = 10
_PATIENCE = 3
_USUAL_SEQUENCE_TOKENS = 512
_LONGEST_OVER_MEAN = 4
"""98 of 100 examples are at most so many times as long as the mean where lengths are log-normal
with σ = 0.8, as those of chat data are."""

_TOKENS_AT_ONCE = 8192
"""Enough for a GPU to be busy, and few enough for models of 8 B parameters on one of 80 GB."""

_MAX_SEQUENCE_TOKENS = 1_048_576
_MIN_SEQUENCE_TOKENS = 8
_MAX_WARMUP_STEPS = 1_000_000
_MAX_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Known:
    """Of a job, beside its training. `architecture` is None where the registry can not tell it;
    the mean of `examples` is 0 where it can not be guessed."""

    method: Method
    backend: Backend
    architecture: Architecture | None
    examples: Examples


def resolved(
    settings: JobSettings, architecture: Architecture | None, examples: Examples
) -> JobSettings:
    """With every field of the training that the caller left to `auto`; as they are without it."""
    training = settings.training
    if not training.auto:
        return settings
    known = Known(settings.method, settings.backend, architecture, examples)
    given = training.model_fields_set
    for field, rule in _RULES.items():
        if field not in given:
            training = training.model_copy(update={field: rule(training, known)})
    checked = TrainingParameters.model_validate(training.model_dump())
    return settings.model_copy(update={"training": checked})


def _learning_rate(training: TrainingParameters, known: Known) -> float:
    """The wider a model, the lower; to two digits. The method's default where the width is not
    known."""
    model = known.architecture
    if model is None:
        return known.method.default_learning_rate
    narrowing = _NARROWING_OF_QWEN if model.model_type.startswith("qwen") else _NARROWING
    rate = _RATES_AT_WIDTH[known.method.kind] * (_WIDTH / model.hidden_size) ** narrowing
    return float(f"{min(rate, 1.0):.1e}")


def _max_sequence_tokens(training: TrainingParameters, known: Known) -> int:
    """More than usual only if the mean says that conversations are longer, for texts are split;
    never more than the model's positions."""
    mean = 0.0 if known.examples.are_texts else known.examples.mean_tokens
    tokens = max(_USUAL_SEQUENCE_TOKENS, _power_of_two_from(_LONGEST_OVER_MEAN * mean))
    positions = known.architecture.position_limit if known.architecture else 0
    bounded = min(tokens, positions or _MAX_SEQUENCE_TOKENS, _MAX_SEQUENCE_TOKENS)
    return max(_MIN_SEQUENCE_TOKENS, bounded)


def _validation_fraction(training: TrainingParameters, known: Known) -> float:
    """The usual share, but not more examples than a loss needs that is compared with others: they
    are read at every evaluation."""
    share = _MOST_HELD_OUT / max(1, known.examples.count * _cut(training, known).pieces)
    return min(_USUAL_SHARE_HELD_OUT, float(f"{share:.1e}"))


def _batch_size(training: TrainingParameters, known: Known) -> int:
    """So many that an epoch has enough steps; a power of two. Where `batch_tokens` counts, this
    does not."""
    most = _learnt(training, known) // _STEPS_AN_EPOCH
    fitting = 1 << max(0, most.bit_length() - 1)
    return min(max(fitting, _LEAST_BATCH), _MOST_BATCH)


def _micro_batch_tokens(training: TrainingParameters, known: Known) -> int:
    """Large steps are computed in parts, with the gradients of the whole."""
    return _TOKENS_AT_ONCE


def _epochs(training: TrainingParameters, known: Known) -> float:
    """So many that the run has enough steps, where `max_steps` does not say how many."""
    if training.max_steps:
        return training.epochs
    wanted = math.ceil(_STEPS_A_RUN / _steps_an_epoch(training, known))
    return float(min(max(wanted, 1), _MOST_EPOCHS))


def _warmup_steps(training: TrainingParameters, known: Known) -> int:
    steps = math.ceil(_WARMUP_SHARE * _steps(training, known))
    return min(max(1, steps), _MAX_WARMUP_STEPS)


def _evaluation_steps(training: TrainingParameters, known: Known) -> int:
    """For the evaluations and the checkpoints."""
    steps = math.ceil(_steps(training, known) / _EVALUATIONS_A_RUN)
    return min(steps, _MAX_INT32)


def _early_stopping_patience(training: TrainingParameters, known: Known) -> int:
    """Who sees examples more than once may learn them by heart. Tools can not stop early."""
    if known.backend is not Backend.BUILTIN:
        return 0
    held_out = held_out_count(known.examples.count, training.validation_fraction)
    repeats = _steps(training, known) > _steps_an_epoch(training, known)
    return _PATIENCE if held_out and training.evaluate_every and repeats else 0


_RULES: Mapping[str, Callable[[TrainingParameters, Known], object]] = {
    "learning_rate": _learning_rate,
    "max_sequence_tokens": _max_sequence_tokens,
    "validation_fraction": _validation_fraction,
    "batch_size": _batch_size,
    "micro_batch_tokens": _micro_batch_tokens,
    "epochs": _epochs,
    "warmup_steps": _warmup_steps,
    "evaluate_every": _evaluation_steps,
    "checkpoint_every": _evaluation_steps,
    "early_stopping_patience": _early_stopping_patience,
}
"""In an order in which each has what it looks at."""


def _cut(training: TrainingParameters, known: Known) -> Cut:
    return known.examples.cut(longest_allowed(training, known.architecture))


def _learnt(training: TrainingParameters, known: Known) -> int:
    """Of texts the pieces; held out are texts as a whole."""
    learnt = learnt_count(known.examples.count, training.validation_fraction)
    return learnt * _cut(training, known).pieces


def _steps_an_epoch(training: TrainingParameters, known: Known) -> int:
    mean = _cut(training, known).mean_tokens
    return steps_an_epoch(training, _learnt(training, known), mean)


def _steps(training: TrainingParameters, known: Known) -> int:
    if training.max_steps:
        return training.max_steps
    return steps_of_epochs(training.epochs, _steps_an_epoch(training, known))


def _power_of_two_from(number: float) -> int:
    """The least that is not less."""
    return 1 << max(0, math.ceil(number) - 1).bit_length()
