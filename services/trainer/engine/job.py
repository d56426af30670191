"""The job file: what one run of the engine is told, and how faults in it are reported."""

import json
from dataclasses import dataclass, field
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
from services.trainer.engine.fast import Switches
from services.trainer.engine.methods import Method

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


LongExamples = Literal["truncate", "drop", "refuse"]
"""What becomes of conversations over `max_sequence_tokens`. Plain texts are split."""


@dataclass(frozen=True, slots=True)
class Training:
    """How the method is trained.

    `max_steps` counts optimizer steps, or is 0 to train for `epochs` passes over the data.
    `batch_size` counts examples per step, `batch_tokens` (if not 0) the tokens instead, padding
    included; `micro_batch_tokens` (if not 0) limits what is computed at a time. `evaluate_every`
    and `checkpoint_every` count steps; 0 means only at the end. (Unless that is 0, a model of a
    lower held-out loss than any before is a checkpoint too.) `max_grad_norm` 0 means no clipping.
    `validation_fraction` of the examples is held out, and the first `sample_count` of them are
    answered at each evaluation. `early_stopping_patience` counts evaluations without a lower
    held-out loss, 0 is for ever; with it the result is the best of the evaluated models. Of the
    checkpoints the last `keep_last_checkpoints` stay, the one of the lowest held-out loss, and
    those of steps divisible by `keep_checkpoint_every` (if not 0).
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
    batch_tokens: Annotated[int, Field(ge=0, le=16_777_216)] = 0
    micro_batch_tokens: Annotated[int, Field(ge=0, le=16_777_216)] = 0
    packing: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    long_examples: LongExamples = "truncate"
    early_stopping_patience: Annotated[int, Field(ge=0, le=1000)] = 0
    keep_last_checkpoints: Annotated[int, Field(ge=1, le=1000)] = 2
    keep_checkpoint_every: Annotated[int, Field(ge=0)] = 0
    sample_count: Annotated[int, Field(ge=0, le=16)] = 2
    sample_max_tokens: Annotated[int, Field(ge=1, le=512)] = 48

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.max_steps == 0 and self.epochs == 0:
            raise ValueError("max_steps and epochs cannot both be 0")
        return self


@dataclass(frozen=True, slots=True)
class Job:
    """One run. `job` is a label for people; `resume_from` is a checkpoint directory, if any (should
    it be of no use, the checkpoint before it serves); `start_from` the result of an earlier run of
    the same method to train on from, if any. With `finish` the run does no further step: its result
    is the best of the checkpoint and those beside it.

    `dataset_file` is Parquet with a column `messages` or `text` (see `examples`); checkpoints go to
    `work_dir`/checkpoints, the result to `work_dir`/artifacts. The run takes `processes`, each of
    so many `threads`. With `sharding` "full" each of them keeps a part of the model, with "none"
    all of it. `switches` turn single gains of speed off, to measure them. `reliefs` is how often
    the run was ended for want of memory since `resume_from`: it begins in parts as many times
    halved.
    """

    __pydantic_config__ = _STRICT

    job: str
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    base_model_dir: DirectoryPath
    dataset_file: FilePath
    work_dir: Path
    resume_from: Path | None
    method: Method
    training: Training
    threads: Annotated[int, Field(ge=1, le=1024)]
    processes: Annotated[int, Field(ge=1, le=1024)] = 1
    start_from: DirectoryPath | None = None
    finish: bool = False
    sharding: Literal["auto", "none", "full"] = "auto"
    switches: Switches = field(default_factory=Switches)
    reliefs: Annotated[int, Field(ge=0)] = 0

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
        faults = (Fault(_path(detail["loc"]), detail["msg"]) for detail in error.errors())
        raise InvalidJob(*faults) from error


def _path(location: tuple[int | str, ...]) -> str:
    """Where a fault is. (Behind `method` pydantic puts in the kind, which is no field.)"""
    if location[:1] == ("method",):
        location = ("method", *location[2:])
    return ".".join(map(str, location))


def job_json(job: Job) -> str:
    """The job file's content for a job; `read_job` reads it back equal."""
    return json.dumps(_JOB.dump_python(job, mode="json"), indent=2, sort_keys=True)
