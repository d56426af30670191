"""`anneal abtest`."""

import getpass
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from anneal.abtest.v1.experiment_pb2 import Experiment, ExperimentReport, Pair, Vote
from anneal.cli.exits import Exit
from anneal.cli.keyboard import read_key
from anneal.cli.printing import (
    Format,
    OutputOption,
    as_json,
    is_terminal,
    print_fields,
    print_json,
    print_json_line,
    print_list,
    when,
)
from anneal.cli.prompts import read_prompts
from anneal.cli.settings import client_for
from anneal.client import Client
from anneal.conversations import role_word

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Blind A/B tests.")

ExperimentArgument = Annotated[str, typer.Argument(help="The experiment's name.")]
ModelHelp = "`tiny-base`, `support@champion`, `support@latest` or `support/v-…`."
WIDTH = 96
KEYS = {
    "left": Vote.CHOICE_LEFT,
    "l": Vote.CHOICE_LEFT,
    "right": Vote.CHOICE_RIGHT,
    "r": Vote.CHOICE_RIGHT,
    "down": Vote.CHOICE_TIE,
    "t": Vote.CHOICE_TIE,
    "b": Vote.CHOICE_BOTH_BAD,
}
HELP = "← left better   → right better   ↓ or t tie   b both bad   q quit"
VERDICTS = {
    ExperimentReport.VERDICT_UNSPECIFIED: "no votes yet",
    ExperimentReport.VERDICT_INCONCLUSIVE: "nothing is proven yet",
    ExperimentReport.VERDICT_CANDIDATE_BETTER: "the candidate is better",
    ExperimentReport.VERDICT_BASELINE_BETTER: "the baseline is better",
}


@app.command()
def create(
    ctx: typer.Context,
    baseline: Annotated[str, typer.Option(help=f"What is in use: {ModelHelp}")],
    candidate: Annotated[str, typer.Option(help=f"What shall be better: {ModelHelp}")],
    prompts: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Chat JSON lines, or text lines.")
    ],
    name: Annotated[str, typer.Option(help="The experiment's name; made up by default.")] = "",
    max_output_tokens: Annotated[int, typer.Option(help="Of an answer; 0: 256.")] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all answers are there.")] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything, create nothing.")
    ] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Begin a test: both models answer every prompt. An assistant's last turn is dropped."""
    with client_for(ctx) as client:
        experiment = client.experiments.create(
            baseline,
            candidate,
            read_prompts(prompts),
            max_output_tokens=max_output_tokens,
            experiment_id=name,
            validate_only=validate_only,
        )
        if wait and not validate_only:
            experiment = client.experiments.wait_for_answers(experiment.name)
        _print_created(client, experiment, output, validate_only=validate_only)
    if experiment.state == Experiment.STATE_FAILED:
        raise typer.Exit(Exit.FAILURE)


@app.command("list")
def list_experiments(ctx: typer.Context, output: OutputOption = Format.TEXT) -> None:
    """List the project's experiments, newest first."""
    with client_for(ctx) as client:
        short = client.names.short
        print_list(
            client.experiments.list(),
            {
                "NAME": lambda one: short(one.name),
                "STATE": _state_word,
                "ANSWERS": lambda one: f"{one.ready_count}/{one.prompt_count}",
                "BASELINE": lambda one: short(one.baseline_model),
                "CANDIDATE": lambda one: short(one.candidate_model),
                "CREATED": lambda one: when(one.create_time),
            },
            output,
        )


@app.command()
def vote(
    ctx: typer.Context,
    experiment: ExperimentArgument,
    voter: Annotated[str, typer.Option(help="Who judges; default: your login name.")] = "",
    output: OutputOption = Format.TEXT,
) -> None:
    """Judge pairs, blind, with the keyboard; after each vote you see which model was which.

    Without a terminal, each line of standard input is a vote: left, right, tie, b (both bad), q.
    """
    judge = voter or getpass.getuser()
    with client_for(ctx) as client:
        if output is Format.TEXT:
            print(HELP)
        while (pair := client.experiments.next_pair(experiment, judge)) is not None:
            _show_pair(pair, output)
            choice = _read_choice()
            if choice is None:
                return
            _reveal(client, client.experiments.vote(pair.name, judge, choice), output)
        if output is Format.TEXT:
            print(f"all judged; see: anneal abtest report {experiment}")


@app.command()
def report(
    ctx: typer.Context, experiment: ExperimentArgument, output: OutputOption = Format.TEXT
) -> None:
    """Show what the votes say so far, with what can be said of it."""
    with client_for(ctx) as client:
        found = client.experiments.report(experiment)
        if output is Format.JSON:
            print_json(as_json(found))
        else:
            print_fields(_report_fields(client, found))


def _print_created(
    client: Client, experiment: Experiment, output: Format, *, validate_only: bool
) -> None:
    if output is Format.JSON:
        print_json(as_json(experiment))
        return
    if validate_only:
        print(f"all good: {experiment.prompt_count} prompts; nothing was created")
        return
    name = client.names.short(experiment.name)
    answers = f"{experiment.ready_count} of {experiment.prompt_count} prompts answered"
    cause = f": {experiment.error.message}" if experiment.error.message else ""
    print(f"{name} is {_state_word(experiment)}, {answers}{cause}")
    if is_terminal():
        print(f"next: anneal abtest vote {name}")


def _show_pair(pair: Pair, output: Format) -> None:
    if output is Format.JSON:
        print_json_line(pair)
        return
    print(f"\n── {pair.remaining_count} to go " + "─" * (WIDTH - 16))
    for turn in pair.messages:
        print(_block(f"{role_word(turn.role)}: {turn.content}"))
    print(f"\nLEFT\n{_block(pair.left_text)}\n\nRIGHT\n{_block(pair.right_text)}\n", flush=True)


def _read_choice() -> Vote.Choice.ValueType | None:
    """Returns what the voter chose; None when they want to stop."""
    while True:
        try:
            key = read_key()
        except EOFError:
            return None
        if key in {"q", "quit"}:
            return None
        if key in KEYS or key[:1] in KEYS:
            return KEYS.get(key, KEYS.get(key[:1]))
        print(HELP)


def _reveal(client: Client, cast_vote: Vote, output: Format) -> None:
    if output is Format.JSON:
        print_json_line(cast_vote)
        return
    choice = Vote.Choice.Name(cast_vote.choice).removeprefix("CHOICE_").lower().replace("_", " ")
    left, right = (
        client.names.short(cast_vote.left_model),
        client.names.short(cast_vote.right_model),
    )
    print(f"{choice}: left was {left}, right was {right}", flush=True)


def _report_fields(client: Client, report: ExperimentReport) -> dict[str, str]:
    interval = report.interval
    votes = report.wins + report.losses + report.ties + report.both_bad
    return {
        "baseline": client.names.short(report.baseline_model),
        "candidate": client.names.short(report.candidate_model),
        "verdict": VERDICTS.get(report.verdict, "unknown"),
        "win rate": f"{report.win_rate:.1%} of {votes} votes" if votes else "",
        "interval": (
            f"{interval.lower:.1%} to {interval.upper:.1%} "
            f"({interval.confidence:.0%}, {interval.method})"
            if votes
            else ""
        ),
        "wins": str(report.wins),
        "losses": str(report.losses),
        "ties": str(report.ties),
        "both bad": str(report.both_bad),
        "prompts judged": str(report.prompt_count),
        "voters": str(report.voter_count),
        "left chosen": f"{report.left_rate:.1%}" if report.HasField("left_rate") else "",
    }


def _state_word(experiment: Experiment) -> str:
    return Experiment.State.Name(experiment.state).removeprefix("STATE_")


def _block(text: str) -> str:
    """Wraps a text, keeping its own lines."""
    return "\n".join(
        textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="  ")
        for line in text.splitlines()
    )
