"""The job file: what one run of the engine is told, and how faults in it are reported."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    ConfigDict,
    DirectoryPath,
    Field,
    FilePath,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from services.trainer.engine.errors import Fault, InvalidJob

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class LoraMethod:
    """Low-rank adapters beside the frozen linear layers (arXiv:2106.09685).

    The update of each layer is `alpha / rank · B A`. No `target_modules` means every linear
    layer of the decoder's blocks; otherwise they are the last parts of layer names.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["lora"]
    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[float, Field(gt=0, le=4096)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: tuple[Annotated[str, Field(min_length=1)], ...]


Method = LoraMethod
"""Becomes a union, told apart by `kind`, when there are more methods."""


@dataclass(frozen=True, slots=True)
class Training:
    """How the method is trained.

    `max_steps` counts optimizer steps, or is 0 to train for `epochs` passes over the data.
    `batch_size` counts examples per step. `evaluate_every` and `checkpoint_every` count steps; 0
    means only at the end. `max_grad_norm` 0 means no clipping. `validation_fraction` of the
    examples is held out.
    """

    __pydantic_config__ = _STRICT

    max_steps: Annotated[int, Field(ge=0, le=10_000_000)]
    epochs: Annotated[float, Field(ge=0, le=10_000)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Literal["cosine", "linear", "constant"]
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    max_grad_norm: Annotated[float, Field(ge=0)]
    max_sequence_tokens: Annotated[int, Field(ge=2, le=1_048_576)]
    validation_fraction: Annotated[float, Field(ge=0, le=0.5)]
    evaluate_every: Annotated[int, Field(ge=0)]
    checkpoint_every: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.max_steps == 0 and self.epochs == 0:
            raise ValueError("max_steps and epochs cannot both be 0")
        return self


@dataclass(frozen=True, slots=True)
class Job:
    """One run. `job` is a label for people; `resume_from` is a checkpoint directory, if any.

    `dataset_file` is Parquet with a column `messages` (see `examples`); checkpoints go to
    `work_dir`/checkpoints, the result to `work_dir`/artifacts.
    """

    __pydantic_config__ = _STRICT

    job: str
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    base_model_dir: DirectoryPath
    dataset_file: FilePath
    work_dir: Path
    resume_from: DirectoryPath | None
    method: Method
    training: Training
    threads: Annotated[int, Field(ge=1, le=1024)]

    @property
    def checkpoints_dir(self) -> Path:
        return self.work_dir / "checkpoints"

    @property
    def artifacts_dir(self) -> Path:
        return self.work_dir / "artifacts"


_JOB = TypeAdapter(Job)


def read_job(path: Path) -> Job:
    """Raises InvalidJob with every fault of the file at once."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidJob(Fault("", f"cannot read {path}: {error.strerror}")) from error
    try:
        return _JOB.validate_json(content)
    except ValidationError as error:
        faults = (
            Fault(".".join(map(str, detail["loc"])), detail["msg"]) for detail in error.errors()
        )
        raise InvalidJob(*faults) from error


def job_json(job: Job) -> str:
    """The job file's content for a job; `read_job` reads it back equal."""
    return json.dumps(_JOB.dump_python(job, mode="json"), indent=2, sort_keys=True)
