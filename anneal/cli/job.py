"""`anneal job`."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Literal

import typer

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
from anneal.trainer.v1.tuning_job_pb2 import LoraMethod, TrainingParameters, TuningJob

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Tuning jobs.")

JobArgument = Annotated[str, typer.Argument(help="The job's name.")]


class Method(StrEnum):
    """How to train."""

    LORA = "lora"


class Schedule(StrEnum):
    """How the learning rate moves after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


SCHEDULES = {
    None: TrainingParameters.SCHEDULE_UNSPECIFIED,
    Schedule.COSINE: TrainingParameters.SCHEDULE_COSINE,
    Schedule.LINEAR: TrainingParameters.SCHEDULE_LINEAR,
    Schedule.CONSTANT: TrainingParameters.SCHEDULE_CONSTANT,
}


@app.command()
def create(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Option(help="`support` (its newest version) or `support/v-…`.")],
    base: Annotated[str, typer.Option(help="The base model, for example `tiny-base`.")],
    model: Annotated[
        str, typer.Option(help="The model that gets the result; default: named like the dataset.")
    ] = "",
    name: Annotated[str, typer.Option(help="The job's name; made up by default.")] = "",
    method: Annotated[Method, typer.Option(help="How to train.")] = Method.LORA,
    rank: Annotated[int | None, typer.Option(help="LoRA's rank [8].")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA's scale [16].")] = None,
    dropout: Annotated[float | None, typer.Option(help="LoRA's dropout [0.1].")] = None,
    target_module: Annotated[
        list[str] | None, typer.Option(help="A layer to adapt; repeatable [all linear ones].")
    ] = None,
    max_steps: Annotated[int, typer.Option(help="Steps; 0: --epochs decides.")] = 0,
    epochs: Annotated[float | None, typer.Option(help="Passes over the examples [3].")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples in a step [8].")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The peak [0.0002].")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps up to the peak [10].")] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="[cosine]")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's [0].")] = None,
    max_gradient_norm: Annotated[float | None, typer.Option(help="0 leaves it [1].")] = None,
    max_sequence_tokens: Annotated[
        int | None, typer.Option(help="Longer examples are cut [512].")
    ] = None,
    validation_fraction: Annotated[
        float | None, typer.Option(help="The share of examples held out [0.1].")
    ] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Steps [50].")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps [50].")] = None,
    seed: Annotated[int, typer.Option(help="Of order, split and dropout.")] = 0,
    max_attempts: Annotated[int, typer.Option(help="Failures before it ends [3].")] = 0,
    label: Annotated[list[str] | None, typer.Option(help="`key=value`; repeatable.")] = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Watch it until it ends.")] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything, create nothing.")
    ] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Put a job into the queue. What is left out takes the service's default, in brackets."""
    training = TrainingParameters(
        max_steps=max_steps,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        schedule=SCHEDULES[schedule],
        weight_decay=weight_decay,
        max_gradient_norm=max_gradient_norm,
        max_sequence_tokens=max_sequence_tokens,
        validation_fraction=validation_fraction,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
    )
    methods = {
        Method.LORA: LoraMethod(
            rank=rank, alpha=alpha, dropout=dropout, target_modules=target_module or ()
        )
    }
    with client_for(ctx) as client:
        job = client.jobs.create(
            dataset,
            base,
            method=methods[method],
            training=training,
            model=model,
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
        "method": _settings_text(job.WhichOneof("method") or "", job.lora),
        "training": _settings_text("", job.training),
        "seed": str(job.seed),
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
        "attempt": f"{job.attempt} of {job.max_attempts}" if job.attempt else "",
        "node": last_part(job.node),
        "created": when(job.create_time),
        "started": when(job.start_time),
        "ended": when(job.end_time),
        "etag": job.etag,
    }


def _settings_text(title: str, settings: LoraMethod | TrainingParameters) -> str:
    shown = [f"{name}={_word(value)}" for name, value in as_json(settings).items() if value != []]
    return " ".join([title, *shown]).strip()


def _word(value: object) -> str:
    return str(value).removeprefix("SCHEDULE_").lower()


def _figure(job: TuningJob, name: Literal["loss", "best_loss", "validation_loss"]) -> str:
    progress = job.progress
    return f"{getattr(progress, name):.4f}" if progress.HasField(name) else ""


def _labels(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"{pair!r} is not key=value", param_hint="--label")
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
