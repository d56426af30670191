"""`anneal job`."""

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from anneal.cli import queue_options, tuning
from anneal.cli.attempts import attempts
from anneal.cli.estimate import estimate
from anneal.cli.exits import Exit
from anneal.cli.job_options import JobOptions, takes_a_job
from anneal.cli.printing import (
    Format,
    OutputOption,
    as_json,
    duration,
    print_created,
    print_fields,
    print_json,
    print_list,
    when,
)
from anneal.cli.recommend import recommend
from anneal.cli.settings import client_for
from anneal.cli.watching import state_word, watch_job
from anneal.client import Client
from anneal.names import last_part
from anneal.trainer.v1.tuning_job_pb2 import ResumeCertificate, TuningJob

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Tuning jobs.")

app.command()(estimate)
app.command()(recommend)
app.command()(attempts)

JobArgument = Annotated[str, typer.Argument(help="The job's name.")]
EtagOption = Annotated[str, typer.Option(help="Only if this is the present etag.")]
WatchOption = Annotated[bool, typer.Option("--watch", help="Watch it until it ends.")]


@app.command()
@takes_a_job
def create(
    ctx: typer.Context,
    asked: JobOptions,
    name: Annotated[str, typer.Option(help="The job's name; made up by default.")] = "",
    watch_it: WatchOption = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything, create nothing.")
    ] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Put a job into the queue. What is left out takes the service's default, in brackets."""
    with client_for(ctx) as client:
        described = asked.described(client)
        job = client.jobs.submit(described, job_id=name, validate_only=validate_only)
        told = _job_fields(client, job) if validate_only else _standing(client, job)
        print_created(job, output, told, more_follows=watch_it)
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
            "PRIORITY": queue_options.priority_word,
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

    A lost connection is taken up again where it broke. A paused job has not ended: it is watched
    until it is resumed, and on.
    """
    with client_for(ctx) as client:
        _watch(client, job, after_sequence, output)


@app.command()
def cancel(
    ctx: typer.Context,
    job: JobArgument,
    etag: EtagOption = "",
    output: OutputOption = Format.TEXT,
) -> None:
    """Stop a job for good: at once when it waits, after its step when it runs."""
    with client_for(ctx) as client:
        _print_standing(client, client.jobs.cancel(job, etag=etag), output)


@app.command()
def pause(
    ctx: typer.Context,
    job: JobArgument,
    etag: EtagOption = "",
    output: OutputOption = Format.TEXT,
) -> None:
    """Have a job wait until it is resumed: at once when it is queued, after its step and a
    checkpoint when it runs."""
    with client_for(ctx) as client:
        _print_standing(client, client.jobs.pause(job, etag=etag), output)


@app.command()
def resume(
    ctx: typer.Context,
    job: JobArgument,
    etag: EtagOption = "",
    output: OutputOption = Format.TEXT,
) -> None:
    """Put a paused job back into the queue; it goes on from its last checkpoint."""
    with client_for(ctx) as client:
        _print_standing(client, client.jobs.resume(job, etag=etag), output)


@app.command()
def retry(
    ctx: typer.Context,
    job: JobArgument,
    name: Annotated[str, typer.Option(help="The new job's name; made up by default.")] = "",
    deadline: queue_options.DeadlineOption = "",
    watch_it: WatchOption = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Make a new job of a failed one, which goes on from its last good checkpoint."""
    deadline_time = queue_options.deadline_time(deadline)
    with client_for(ctx) as client:
        again = client.jobs.retry(job, job_id=name, deadline_time=deadline_time)
        told = f"{_standing(client, again)}, a retry of {client.names.short(again.retry_of)}"
        print_created(again, output, told, more_follows=watch_it)
        if watch_it:
            _watch(client, again.name, 0, output)


def _watch(client: Client, job: str, after_sequence: int, output: Format) -> None:
    ended = watch_job(client, job, after_sequence, output)
    if ended.state != TuningJob.STATE_SUCCEEDED:
        raise typer.Exit(Exit.JOB_NOT_SUCCEEDED)


def _print_standing(client: Client, job: TuningJob, output: Format) -> None:
    if output is Format.JSON:
        print_json(as_json(job))
    else:
        print(_standing(client, job))


def _standing(client: Client, job: TuningJob) -> str:
    return f"{client.names.short(job.name)} is {state_word(job.state)}"


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
        "trial of": short(job.tuning_sweep),
        "retry of": short(job.retry_of),
        "retried as": short(job.retried_as),
        **queue_options.queue_fields(job),
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
        "attempt": f"{job.attempt}, {job.max_attempts} may fail" if job.attempt else "",
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
