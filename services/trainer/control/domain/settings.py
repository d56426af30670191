"""The settings of a tuning job: their limits and defaults, as the proto's comments state them."""

from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from services.common.faults import InvalidArgument, Violation
from services.common.violations import violations_of
from services.trainer import backend_limits
from services.trainer.control.domain.frozen import Frozen
from services.trainer.control.domain.methods import Method
from services.trainer.control.domain.queue.requirements import Priority, Requirements

_MAX_INT64 = 2**63 - 1
MAX_STEPS = 10_000_000
_ROOT = "tuning_job"
_METHOD = f"{_ROOT}.method"
_NO_METHOD = Violation(_METHOD, "set one of full, lora, qlora, prefix and adapter", "MISSING")

Word = Annotated[str, Field(max_length=63, pattern=r"^[^\x00-\x1f]*$")]
TokenBudget = Annotated[int, Field(ge=0, le=16_777_216)]


class Schedule(StrEnum):
    """How the learning rate moves after the warm-up."""

    COSINE = "COSINE"
    LINEAR = "LINEAR"
    CONSTANT = "CONSTANT"


class Precision(StrEnum):
    """The numbers that a step is computed with."""

    AUTO = "AUTO"
    FLOAT32 = "FLOAT32"
    BFLOAT16 = "BFLOAT16"


class Checkpointing(StrEnum):
    """Whether activations are computed again in the backward pass."""

    AUTO = "AUTO"
    ON = "ON"
    OFF = "OFF"


class Overlength(StrEnum):
    """What becomes of an example that is too long."""

    TRUNCATE = "TRUNCATE"
    DROP = "DROP"
    REFUSE = "REFUSE"


class Backend(StrEnum):
    """What trains a job."""

    BUILTIN = "BUILTIN"
    UNSLOTH = "UNSLOTH"
    AXOLOTL = "AXOLOTL"

    def trains(self, method: str) -> bool:
        return self is Backend.BUILTIN or method in backend_limits.METHODS


class TrainingParameters(Frozen):
    """How long and how fast to train. `max_steps` 0 means that `epochs` decides; `learning_rate`
    None, that the method does, or with `auto` the rules (`automatic`)."""

    max_steps: int = Field(default=0, ge=0, le=MAX_STEPS)
    epochs: float = Field(default=3.0, gt=0, le=1000)
    batch_size: int = Field(default=8, ge=1, le=4096)
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    warmup_steps: int = Field(default=10, ge=0, le=1_000_000)
    schedule: Schedule = Schedule.COSINE
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    max_gradient_norm: float = Field(default=1.0, ge=0, le=1000)
    max_sequence_tokens: int = Field(default=512, ge=8, le=1_048_576)
    validation_fraction: float = Field(default=0.1, ge=0, le=0.5)
    evaluate_every: int = Field(default=50, ge=0)
    checkpoint_every: int = Field(default=50, ge=0)
    batch_tokens: TokenBudget = 0
    micro_batch_tokens: TokenBudget = 0
    packing: bool = False
    precision: Precision = Precision.AUTO
    gradient_checkpointing: Checkpointing = Checkpointing.AUTO
    long_examples: Overlength = Overlength.TRUNCATE
    early_stopping_patience: int = Field(default=0, ge=0, le=1000)
    keep_last_checkpoints: int = Field(default=2, ge=1, le=1000)
    keep_checkpoint_every: int = Field(default=0, ge=0)
    sample_count: int = Field(default=2, ge=0, le=16)
    sample_max_tokens: int = Field(default=48, ge=1, le=512)
    auto: bool = False

    @field_validator("early_stopping_patience")
    @classmethod
    def _has_something_to_wait_for(cls, patience: int, info: ValidationInfo) -> int:
        needed = ("evaluate_every", "validation_fraction")
        lacking = [name for name in needed if info.data.get(name) == 0]
        if patience and lacking:
            names = " and ".join(lacking)
            raise PydanticCustomError("no_evaluations", "needs {names} above 0", {"names": names})
        return patience


class JobSettings(Frozen):
    """All that a caller may set of a job, apart from the resources it names."""

    method: Method
    training: TrainingParameters = Field(default_factory=TrainingParameters, validate_default=True)
    seed: int = Field(default=0, ge=-_MAX_INT64 - 1, le=_MAX_INT64)
    max_attempts: int = Field(default=3, ge=1, le=20)
    labels: dict[Word, Word] = Field(default_factory=dict[str, str], max_length=32)
    backend: Backend = Backend.BUILTIN
    priority: Priority = Priority.NORMAL
    requirements: Requirements = Field(default_factory=Requirements)
    deadline_time: datetime | None = None

    @field_validator("training")
    @classmethod
    def _has_a_learning_rate(
        cls, training: TrainingParameters, info: ValidationInfo
    ) -> TrainingParameters:
        method: Method | None = info.data.get("method")
        if method is None or training.learning_rate is not None or training.auto:
            return training
        return training.model_copy(update={"learning_rate": method.default_learning_rate})


def checked_settings(given: dict[str, object]) -> JobSettings:
    """Raises InvalidArgument with every violation; fields are named as in the request."""
    try:
        return JobSettings.model_validate(given)
    except ValidationError as error:
        raise InvalidArgument(list(map(_as_asked, violations_of(error, _ROOT)))) from error


def _as_asked(violation: Violation) -> Violation:
    """In the request a method's settings stand beside the others, under the method's name."""
    if violation.field == _METHOD:
        return _NO_METHOD
    if violation.field.startswith(f"{_METHOD}."):
        return replace(violation, field=_ROOT + violation.field.removeprefix(_METHOD))
    return violation
