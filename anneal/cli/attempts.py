"""`anneal job attempts`."""

from collections.abc import Callable
from typing import Annotated

import typer

from anneal.cli.printing import Format, OutputOption, duration, one_line, print_list, when
from anneal.cli.settings import client_for
from anneal.enums import word_of
from anneal.names import last_part
from anneal.trainer.v1.tuning_job_pb2 import TuningJobAttempt

MESSAGE_CHARACTERS = 100


def attempts(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(help="The job's name.")],
    output: OutputOption = Format.TEXT,
) -> None:
    """List a job's attempts, the first first: on which node, how each ended, what it did."""
    columns: dict[str, Callable[[TuningJobAttempt], str]] = {
        "ATTEMPT": lambda one: str(one.attempt),
        "NODE": lambda one: last_part(one.node),
        "OUTCOME": _outcome,
        "STEPS": lambda one: f"{one.steps:,}",
        "UP TO": lambda one: f"{one.last_step:,}",
        "REDONE": lambda one: f"{one.redone_steps:,}",
        "TIME": lambda one: duration(one.duration.ToTimedelta().total_seconds()),
        "BEGAN": lambda one: when(one.start_time),
        "SAID": lambda one: one_line(one.message)[:MESSAGE_CHARACTERS],
    }
    with client_for(ctx) as client:
        print_list(client.jobs.attempts(job), columns, output)


def _outcome(attempt: TuningJobAttempt) -> str:
    if attempt.outcome == TuningJobAttempt.OUTCOME_UNSPECIFIED:
        return "" if attempt.HasField("end_time") else "RUNNING"
    return word_of(TuningJobAttempt.Outcome.DESCRIPTOR, attempt.outcome)
