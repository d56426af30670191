"""The settings of a tuning job: their limits and defaults, as the proto's comments state them."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.common.faults import InvalidArgument, Violation

_MAX_INT64 = 2**63 - 1
_ROOT = "tuning_job"

Word = Annotated[str, Field(max_length=63, pattern=r"^[^\x00-\x1f]*$")]
ModuleName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^.\s]+$")]


class Frozen(BaseModel):
    """A value that refuses what it does not know, NaN and infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Schedule(StrEnum):
    """How the learning rate moves after the warm-up."""

    COSINE = "COSINE"
    LINEAR = "LINEAR"
    CONSTANT = "CONSTANT"


class LoraMethod(Frozen):
    """Low-rank adapters (LoRA, Hu et al. 2021). No target modules: all linear layers."""

    rank: int = Field(default=8, ge=1, le=512)
    alpha: float = Field(default=16.0, gt=0, le=4096)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    target_modules: tuple[ModuleName, ...] = Field(default=(), max_length=64)


class TrainingParameters(Frozen):
    """How long and how fast to train. `max_steps` 0 means that `epochs` decides."""

    max_steps: int = Field(default=0, ge=0, le=10_000_000)
    epochs: float = Field(default=3.0, gt=0, le=1000)
    batch_size: int = Field(default=8, ge=1, le=4096)
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    warmup_steps: int = Field(default=10, ge=0, le=1_000_000)
    schedule: Schedule = Schedule.COSINE
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    max_gradient_norm: float = Field(default=1.0, ge=0, le=1000)
    max_sequence_tokens: int = Field(default=512, ge=8, le=1_048_576)
    validation_fraction: float = Field(default=0.1, ge=0, le=0.5)
    evaluate_every: int = Field(default=50, ge=0)
    checkpoint_every: int = Field(default=50, ge=0)


class JobSettings(Frozen):
    """All that a caller may set of a job, apart from the resources it names."""

    lora: LoraMethod
    training: TrainingParameters = Field(default_factory=TrainingParameters)
    seed: int = Field(default=0, ge=-_MAX_INT64 - 1, le=_MAX_INT64)
    max_attempts: int = Field(default=3, ge=1, le=20)
    labels: dict[Word, Word] = Field(default_factory=dict[str, str], max_length=32)


def checked_settings(given: dict[str, object]) -> JobSettings:
    """Raises InvalidArgument with every violation; fields are named as in the request."""
    try:
        return JobSettings.model_validate(given)
    except ValidationError as error:
        raise InvalidArgument(_violations(error)) from error


def _violations(error: ValidationError) -> list[Violation]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        Violation(".".join((_ROOT, *map(str, one["loc"]))), one["msg"], one["type"].upper())
        for one in found
    ]
