"""`anneal sweep`."""

from collections.abc import Callable
from typing import Annotated

import typer

from anneal.cli import queue_options, tuning
from anneal.cli.exits import Exit
from anneal.cli.job_options import JobOptions, takes_a_job
from anneal.cli.printing import (
    Format,
    OutputOption,
    as_json,
    print_created,
    print_fields,
    print_json,
    print_list,
    when,
)
from anneal.cli.settings import client_for
from anneal.cli.sweep_watching import (
    settings_of,
    sweep_state_word,
    trial_lines,
    watch_sweep,
)
from anneal.client import Client
from anneal.sweeps import winning_trial
from anneal.trainer.v1.tuning_sweep_pb2 import TuningSweep

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Searches for the learning rate and the rank of a job.",
)

SweepArgument = Annotated[str, typer.Argument(help="The sweep's name.")]


@app.command()
@takes_a_job
def create(
    ctx: typer.Context,
    asked: JobOptions,
    try_learning_rate: Annotated[
        list[float] | None,
        typer.Option(help="A learning rate to try; repeatable (the job's times 0.1 to 10)."),
    ] = None,
    try_rank: Annotated[
        list[int] | None,
        typer.Option(help="lora, qlora: a rank to try; repeatable (the job's)."),
    ] = None,
    reduction: Annotated[
        int, typer.Option(help="Of so many trials one goes on to the next rung (3).")
    ] = 0,
    first_rung_steps: Annotated[
        int, typer.Option(help="Steps of the first trials (so that one is left at the end).")
    ] = 0,
    name: Annotated[str, typer.Option(help="The sweep's name; made up by default.")] = "",
    watch_it: Annotated[bool, typer.Option("--watch", help="Watch it until it ends.")] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything, create nothing.")
    ] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Look for the learning rate and the rank of a job, which needs --max-steps: all candidates
    are trained for a few steps, the better ones for more, until one is left."""
    with client_for(ctx) as client:
        sweep = client.sweeps.create(
            asked.described(client),
            learning_rates=try_learning_rate or [],
            ranks=try_rank or [],
            reduction=reduction,
            first_rung_steps=first_rung_steps,
            sweep_id=name,
            validate_only=validate_only,
        )
        told = _sweep_fields(client, sweep) if validate_only else _made_text(client, sweep)
        print_created(sweep, output, told, more_follows=watch_it)
        if watch_it and not validate_only:
            _watch(client, sweep.name, output)


@app.command("list")
def list_sweeps(ctx: typer.Context, output: OutputOption = Format.TEXT) -> None:
    """List the project's sweeps, newest first."""
    with client_for(ctx) as client:
        short = client.names.short
        columns: dict[str, Callable[[TuningSweep], str]] = {
            "NAME": lambda sweep: short(sweep.name),
            "STATE": lambda sweep: sweep_state_word(sweep.state),
            "TRIALS": lambda sweep: str(len(sweep.trials)),
            "WINNER": _winner_text,
            "DATASET": lambda sweep: short(sweep.tuning_job.dataset_version),
            "BASE": lambda sweep: short(sweep.tuning_job.base_model),
            "CREATED": lambda sweep: when(sweep.create_time),
        }
        print_list(client.sweeps.list(), columns, output)


@app.command()
def show(ctx: typer.Context, sweep: SweepArgument, output: OutputOption = Format.TEXT) -> None:
    """Show a sweep: where it stands, and all its trials."""
    with client_for(ctx) as client:
        found = client.sweeps.get(sweep)
        if output is Format.JSON:
            print_json(as_json(found))
        else:
            print_fields(_sweep_fields(client, found))


@app.command()
def watch(ctx: typer.Context, sweep: SweepArgument, output: OutputOption = Format.TEXT) -> None:
    """Watch a sweep until it ends; exits 6 when it does not succeed. Ctrl-C leaves it running."""
    with client_for(ctx) as client:
        _watch(client, sweep, output)


@app.command()
def cancel(
    ctx: typer.Context,
    sweep: SweepArgument,
    etag: Annotated[str, typer.Option(help="Only if this is the present etag.")] = "",
    output: OutputOption = Format.TEXT,
) -> None:
    """Stop a sweep and its trials."""
    with client_for(ctx) as client:
        found = client.sweeps.cancel(sweep, etag=etag)
        if output is Format.JSON:
            print_json(as_json(found))
        else:
            print(_standing(client, found))


def _watch(client: Client, sweep: str, output: Format) -> None:
    ended = watch_sweep(client, sweep, output)
    if ended.state != TuningSweep.STATE_SUCCEEDED:
        raise typer.Exit(Exit.JOB_NOT_SUCCEEDED)


def _standing(client: Client, sweep: TuningSweep) -> str:
    return f"{client.names.short(sweep.name)} is {sweep_state_word(sweep.state)}"


def _made_text(client: Client, sweep: TuningSweep) -> str:
    trials = f"{len(sweep.trials)} trials of {sweep.trials[0].steps:,} steps"
    return f"{_standing(client, sweep)}: {trials}"


def _sweep_fields(client: Client, sweep: TuningSweep) -> dict[str, str]:
    short = client.names.short
    job = sweep.tuning_job
    kind = job.WhichOneof("method")
    return {
        "name": short(sweep.name),
        "state": sweep_state_word(sweep.state),
        "error": sweep.error.message,
        "winner": _winner_text(sweep),
        "model version": short(sweep.model_version),
        "trials": "\n".join(trial_lines(sweep, short)),
        "learning rates": ", ".join(f"{rate:g}" for rate in sweep.learning_rates),
        "ranks": ", ".join(map(str, sweep.ranks)),
        "reduction": str(sweep.reduction),
        "first rung": f"{sweep.first_rung_steps:,} steps",
        "dataset": short(job.dataset_version),
        "base model": short(job.base_model),
        "model": short(job.model),
        "continued from": short(job.start_version),
        "method": "" if kind is None else tuning.settings_text(kind, getattr(job, kind)),
        "training": tuning.settings_text("", job.training),
        **queue_options.queue_fields(job),
        "created": when(sweep.create_time),
        "ended": when(sweep.end_time),
        "etag": sweep.etag,
    }


def _winner_text(sweep: TuningSweep) -> str:
    won = winning_trial(sweep)
    return "" if won is None else f"{settings_of(won)}, held-out loss {won.validation_loss:.4f}"
