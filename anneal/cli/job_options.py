"""The options that describe a job, for every command that takes one."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

import typer

from anneal.cli import queue_options, tuning
from anneal.client import Client
from anneal.jobs import Method
from anneal.trainer.v1.tuning_job_pb2 import (
    Backend,
    Priority,
    Requirements,
    TrainingParameters,
    TuningJob,
)


@dataclass(frozen=True)
class JobOptions:
    """A job as it is asked for, with short names."""

    dataset: str
    base: str
    method: Method | None
    training: TrainingParameters
    model: str
    start_from: str
    seed: int
    max_attempts: int
    backend: tuning.Backend
    labels: dict[str, str]
    priority: Priority.ValueType
    requirements: Requirements | None
    deadline_time: datetime | None

    def described(self, client: Client) -> TuningJob:
        return client.jobs.describe(
            self.dataset,
            self.base,
            method=self.method,
            training=self.training,
            model=self.model,
            start_from=self.start_from,
            seed=self.seed,
            max_attempts=self.max_attempts,
            backend=Backend.Value(f"BACKEND_{self.backend.name}"),
            labels=self.labels,
            priority=self.priority,
            requirements=self.requirements,
            deadline_time=self.deadline_time,
        )


def takes_a_job(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command, which takes its `asked: JobOptions`, the options for them.

    They stand behind the command's first parameter, its context.
    """
    options = signature(job_options).parameters
    own = [one for one in signature(command).parameters.values() if one.name != "asked"]

    @wraps(command)
    def called(**given: Any) -> None:
        try:
            asked = job_options(**{name: given.pop(name) for name in options})
        except ValueError as error:  # a number that its field has no room for
            raise typer.BadParameter(str(error)) from error
        command(**given, asked=asked)

    every = [own[0], *options.values(), *own[1:]]
    by_name = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in every]
    called.__dict__["__signature__"] = Signature(by_name)
    return called


def job_options(
    dataset: Annotated[str, typer.Option(help="`support` (its newest version) or `support/v-…`.")],
    base: Annotated[str, typer.Option(help="The base model, for example `tiny-base`.")],
    model: Annotated[
        str, typer.Option(help="The model that gets the result; default: named like the dataset.")
    ] = "",
    start_from: Annotated[
        str,
        typer.Option(help="Go on from the parameters of `support/v-…`, or of `support@champion`."),
    ] = "",
    seed: Annotated[int, typer.Option(help="Of order, split and dropout.")] = 0,
    max_attempts: Annotated[int, typer.Option(help="Failures before it ends (3).")] = 0,
    backend: Annotated[
        tuning.Backend, typer.Option(help="What trains it; unsloth and axolotl on nodes with them.")
    ] = tuning.Backend.BUILTIN,
    label: Annotated[list[str] | None, typer.Option(help="`key=value`; repeatable.")] = None,
    priority: queue_options.PriorityOption = None,
    require: queue_options.Require = None,
    devices: queue_options.Devices = None,
    device_memory: queue_options.DeviceMemory = "",
    deadline: queue_options.DeadlineOption = "",
    method: tuning.MethodOption = None,
    rank: tuning.Rank = None,
    alpha: tuning.Alpha = None,
    dropout: tuning.Dropout = None,
    target_module: tuning.TargetModule = None,
    rslora: tuning.Rslora = None,
    dora: tuning.Dora = None,
    bits: tuning.Bits = None,
    double_quantization: tuning.DoubleQuantization = None,
    prefix_length: tuning.PrefixLength = None,
    projection_size: tuning.ProjectionSize = None,
    adapter_size: tuning.AdapterSize = None,
    placement: tuning.PlacementOption = None,
    activation: tuning.ActivationOption = None,
    auto: tuning.Auto = None,
    max_steps: tuning.MaxSteps = 0,
    epochs: tuning.Epochs = None,
    batch_size: tuning.BatchSize = None,
    batch_tokens: tuning.BatchTokens = None,
    micro_batch_tokens: tuning.MicroBatchTokens = None,
    packing: tuning.Packing = None,
    learning_rate: tuning.LearningRate = None,
    warmup_steps: tuning.WarmupSteps = None,
    schedule: tuning.ScheduleOption = None,
    weight_decay: tuning.WeightDecay = None,
    max_gradient_norm: tuning.MaxGradientNorm = None,
    max_sequence_tokens: tuning.MaxSequenceTokens = None,
    long_examples: tuning.LongExamples = None,
    precision: tuning.PrecisionOption = None,
    gradient_checkpointing: tuning.GradientCheckpointing = None,
    validation_fraction: tuning.ValidationFraction = None,
    evaluate_every: tuning.EvaluateEvery = None,
    early_stopping_patience: tuning.EarlyStoppingPatience = None,
    sample_count: tuning.SampleCount = None,
    sample_max_tokens: tuning.SampleMaxTokens = None,
    checkpoint_every: tuning.CheckpointEvery = None,
    keep_last_checkpoints: tuning.KeepLastCheckpoints = None,
    keep_checkpoint_every: tuning.KeepCheckpointEvery = None,
) -> JobOptions:
    """Puts together what the options say. Raises BadParameter."""
    chosen = tuning.method_message(
        method,
        {
            "rank": rank,
            "alpha": alpha,
            "dropout": dropout,
            "target_modules": target_module,
            "rslora": rslora,
            "dora": dora,
            "bits": bits,
            "double_quantization": double_quantization,
            "prefix_length": prefix_length,
            "projection_size": projection_size,
            "adapter_size": adapter_size,
            "placement": placement,
            "activation": activation,
        },
    )
    training = tuning.filled(
        TrainingParameters,
        {
            "auto": auto,
            "max_steps": max_steps,
            "epochs": epochs,
            "batch_size": batch_size,
            "batch_tokens": batch_tokens,
            "micro_batch_tokens": micro_batch_tokens,
            "packing": packing,
            "learning_rate": learning_rate,
            "warmup_steps": warmup_steps,
            "schedule": schedule,
            "weight_decay": weight_decay,
            "max_gradient_norm": max_gradient_norm,
            "max_sequence_tokens": max_sequence_tokens,
            "long_examples": long_examples,
            "precision": precision,
            "gradient_checkpointing": gradient_checkpointing,
            "validation_fraction": validation_fraction,
            "evaluate_every": evaluate_every,
            "early_stopping_patience": early_stopping_patience,
            "sample_count": sample_count,
            "sample_max_tokens": sample_max_tokens,
            "checkpoint_every": checkpoint_every,
            "keep_last_checkpoints": keep_last_checkpoints,
            "keep_checkpoint_every": keep_checkpoint_every,
        },
    )
    return JobOptions(
        dataset,
        base,
        chosen,
        training,
        model,
        start_from,
        seed,
        max_attempts,
        backend,
        queue_options.pairs(label or [], "--label"),
        queue_options.wire_priority(priority),
        queue_options.requirements(require or [], devices, device_memory),
        queue_options.deadline_time(deadline),
    )
