"""`anneal quota`."""

from typing import Annotated

import typer

from anneal.cli.printing import Format, OutputOption, as_json, print_fields, print_json
from anneal.cli.settings import client_for
from anneal.trainer.v1.queue_service_pb2 import Quota

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="What a project may take of the queue."
)

ProjectArgument = Annotated[
    str, typer.Argument(help="The project; default: the one of --project.", show_default=False)
]


@app.command()
def show(
    ctx: typer.Context, project: ProjectArgument = "", output: OutputOption = Format.TEXT
) -> None:
    """Show a project's quota, and what it has taken."""
    with client_for(ctx) as client:
        _print(client.quotas.get(project), output)


@app.command("set")
def set_quota(
    ctx: typer.Context,
    project: ProjectArgument = "",
    max_running_jobs: Annotated[
        int | None, typer.Option(help="Jobs that run at once; 0: no limit.")
    ] = None,
    max_queued_jobs: Annotated[
        int | None, typer.Option(help="Jobs that wait at once; more are refused. 0: no limit.")
    ] = None,
    max_device_hours_a_day: Annotated[
        float | None, typer.Option(help="Device-hours of training a day (UTC); 0: no limit.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="Of 2: twice as much of the devices as of 1.")
    ] = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """Set what a project may take; what is left out stays as it is. Jobs that run go on."""
    given = (max_running_jobs, max_queued_jobs, max_device_hours_a_day, weight)
    if all(value is None for value in given):
        raise typer.BadParameter(
            "say what to set: --max-running-jobs, --max-queued-jobs, --max-device-hours-a-day "
            "or --weight"
        )
    with client_for(ctx) as client:
        try:
            quota = client.quotas.set(
                project,
                max_running_jobs=max_running_jobs,
                max_queued_jobs=max_queued_jobs,
                max_device_hours_a_day=max_device_hours_a_day,
                weight=weight,
            )
        except ValueError as error:  # a number that its field has no room for
            raise typer.BadParameter(str(error)) from error
        _print(quota, output)


def _print(quota: Quota, output: Format) -> None:
    if output is Format.JSON:
        print_json(as_json(quota))
        return
    print_fields(
        {
            "project": quota.name.split("/")[1],
            "weight": f"{quota.weight:g}",
            "running jobs": _within(quota.running_jobs, quota.max_running_jobs),
            "queued jobs": _within(quota.queued_jobs, quota.max_queued_jobs),
            "device-hours today": _within(quota.device_hours_today, quota.max_device_hours_a_day),
            "device-hours in all": _figure(quota.device_hours),
        }
    )


def _within(taken: float, limit: float) -> str:
    return f"{_figure(taken)} of {_figure(limit)}" if limit else f"{_figure(taken)}, no limit"


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
