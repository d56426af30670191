"""`anneal serve`."""

from enum import StrEnum
from typing import Annotated

import typer

from anneal.cli.exec import become
from anneal.up.programs import MODULES

app = typer.Typer(add_completion=False)


class Service(StrEnum):
    """What can be served; the keys of `MODULES`."""

    DATASET = "dataset"
    TRAINER = "trainer"
    REGISTRY = "registry"
    INFERENCE = "inference"
    ABTEST = "abtest"


@app.command()
def serve(
    ctx: typer.Context, service: Annotated[Service, typer.Argument(help="Which service.")]
) -> None:
    """Run one service, configured by its environment (`ANNEAL_…`)."""
    become(ctx, MODULES[service])
