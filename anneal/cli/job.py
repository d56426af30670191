"""`anneal job`."""

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from anneal.cli import tuning
from anneal.cli.exits import Exit
from anneal.cli.printing import (
    Format,
    OutputOption,
    as_json,
    duration,
    print_fields,
    print_json,
    print_json_line,
    print_list,
    when,
)
from anneal.cli.settings import client_for
from anneal.cli.watching import state_word, watch_job
from anneal.client import Client
from anneal.names import last_part
from anneal.trainer.v1.tuning_job_pb2 import ResumeCertificate, TrainingParameters, TuningJob

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Tuning jobs.")

JobArgument = Annotated[str, typer.Argument(help="The job's name.")]


@app.command()
def create(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Option(help="`support` (its newest version) or `support/v-…`.")],
    base: Annotated[str, typer.Option(help="The base model, for example `tiny-base`.")],
    model: Annotated[
        str, typer.Option(help="The model that gets the result; default: named like the dataset.")
    ] = "",
    start_from: Annotated[
        str,
        typer.Option(help="Go on from the parameters of `support/v-…`, or of `support@champion`."),
    ] = "",
    name: Annotated[str, typer.Option(help="The job's name; made up by default.")] = "",
    method: tuning.MethodOption = tuning.Method.LORA,
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
    seed: Annotated[int, typer.Option(help="Of order, split and dropout.")] = 0,
    max_attempts: Annotated[int, typer.Option(help="Failures before it ends (3).")] = 0,
    label: Annotated[list[str] | None, typer.Option(help="`key=value`; repeatable.")] = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Watch it until it ends.")] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything, create nothing.")
    ] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Put a job into the queue. What is left out takes the service's default, in brackets."""
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
    with client_for(ctx) as client:
        job = client.jobs.create(
            dataset,
            base,
            method=chosen,
            training=training,
            model=model,
            start_from=start_from,
            seed=seed,
            max_attempts=max_attempts,
            labels=_labels(label or []),
            job_id=name,
            validate_only=validate_only,
        )
        _print_created(client, job, output, validate_only=validate_only, goes_on=watch_it)
        if watch_it and not validate_only:
            _watch(client, job.name, 0, output)


@app.command("list")
def list_jobs(
    ctx: typer.Context,
    filter_text: Annotated[
        str, typer.Option("--filter", help="AIP-160, for example `state = RUNNING`.")
    ] = "",
    output: OutputOption = Format.TEXT,
) -> None:
    """List the project's jobs, newest first."""
    with client_for(ctx) as client:
        short = client.names.short
        columns: dict[str, Callable[[TuningJob], str]] = {
            "NAME": lambda job: short(job.name),
            "STATE": lambda job: state_word(job.state),
            "DONE": lambda job: f"{job.progress.percent:.0f} %",
            "LOSS": lambda job: _figure(job, "loss"),
            "HELD-OUT": lambda job: _figure(job, "validation_loss"),
            "DATASET": lambda job: short(job.dataset_version),
            "BASE": lambda job: short(job.base_model),
            "CREATED": lambda job: when(job.create_time),
        }
        print_list(client.jobs.list(filter_text=filter_text), columns, output)


@app.command()
def show(ctx: typer.Context, job: JobArgument, output: OutputOption = Format.TEXT) -> None:
    """Show a job: where it stands, what it was told, what it made."""
    with client_for(ctx) as client:
        found = client.jobs.get(job)
        if output is Format.JSON:
            print_json(as_json(found))
        else:
            print_fields(_job_fields(client, found))


@app.command()
def watch(
    ctx: typer.Context,
    job: JobArgument,
    after_sequence: Annotated[
        int, typer.Option(min=0, help="Only events behind this place in its history.")
    ] = 0,
    output: OutputOption = Format.TEXT,
) -> None:
    """Watch a job live until it ends; exits 6 when it does not succeed. Ctrl-C leaves it running.

    A lost connection is taken up again where it broke.
    """
    with client_for(ctx) as client:
        _watch(client, job, after_sequence, output)


@app.command()
def cancel(
    ctx: typer.Context,
    job: JobArgument,
    etag: Annotated[str, typer.Option(help="Only if this is the present etag.")] = "",
    output: OutputOption = Format.TEXT,
) -> None:
    """Stop a job: at once when it is queued, after its step when it runs."""
    with client_for(ctx) as client:
        found = client.jobs.cancel(job, etag=etag)
        if output is Format.JSON:
            print_json(as_json(found))
        else:
            print(f"{client.names.short(found.name)} is {state_word(found.state)}")


def _watch(client: Client, job: str, after_sequence: int, output: Format) -> None:
    ended = watch_job(client, job, after_sequence, output)
    if ended.state != TuningJob.STATE_SUCCEEDED:
        raise typer.Exit(Exit.JOB_NOT_SUCCEEDED)


def _print_created(
    client: Client, job: TuningJob, output: Format, *, validate_only: bool, goes_on: bool
) -> None:
    if output is Format.JSON and goes_on:
        print_json_line(job)
    elif output is Format.JSON:
        print_json(as_json(job))
    elif validate_only:
        print("all good; nothing was created. It would be:")
        print_fields(_job_fields(client, job))
    else:
        print(f"{client.names.short(job.name)} is {state_word(job.state)}", flush=True)


def _job_fields(client: Client, job: TuningJob) -> dict[str, str]:
    short = client.names.short
    progress = job.progress
    return {
        "name": short(job.name),
        "state": state_word(job.state),
        "error": job.error.message,
        "step": f"{progress.step:,} of {progress.total_steps:,}" if progress.total_steps else "",
        "loss": _figure(job, "loss"),
        "best loss": _figure(job, "best_loss"),
        "held-out loss": _figure(job, "validation_loss"),
        "ETA": duration(progress.eta.seconds) if progress.eta.seconds else "",
        "model version": short(job.model_version),
        "dataset": short(job.dataset_version),
        "base model": short(job.base_model),
        "model": short(job.model),
        "continued from": short(job.start_version),
        "method": _method_text(job),
        "training": tuning.settings_text("", job.training),
        "seed": str(job.seed),
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
        "attempt": f"{job.attempt} of {job.max_attempts}" if job.attempt else "",
        "resumed": "\n".join(map(_resume_text, job.resume_certificates)),
        "node": last_part(job.node),
        "created": when(job.create_time),
        "started": when(job.start_time),
        "ended": when(job.end_time),
        "etag": job.etag,
    }


def _method_text(job: TuningJob) -> str:
    """Empty for a method that these protos do not know."""
    kind = job.WhichOneof("method")
    return "" if kind is None else tuning.settings_text(kind, getattr(job, kind))


def _resume_text(certificate: ResumeCertificate) -> str:
    again = certificate.replayed_steps
    restored = "" if certificate.exact else ", with not what the checkpoint held"
    steps = f"{again:,} {'step' if again == 1 else 'steps'} done again"
    difference = f", largest difference of loss {certificate.max_loss_difference:g}"
    return f"after step {certificate.step:,}{restored}: {steps}{difference if again else ''}"


def _figure(job: TuningJob, name: Literal["loss", "best_loss", "validation_loss"]) -> str:
    progress = job.progress
    return f"{getattr(progress, name):.4f}" if progress.HasField(name) else ""


def _labels(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"{pair!r} is not key=value", param_hint="--label")
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
