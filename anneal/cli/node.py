"""`anneal node`."""

import typer

from anneal.cli.exec import become
from anneal.up.programs import NODE_MODULE

app = typer.Typer(add_completion=False)


@app.command()
def node(ctx: typer.Context) -> None:
    """Run a training node, configured by its environment (`ANNEAL_…`).

    It finds an `anneal up` on the same machine by its data directory. `anneal nodes` tells of the
    nodes that run.
    """
    become(ctx, NODE_MODULE)
