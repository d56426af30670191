"""`anneal nodes`."""

from collections.abc import Callable
from typing import Annotated

import typer

from anneal.cli import device_options
from anneal.cli.printing import (
    Format,
    OutputOption,
    as_json,
    print_fields,
    print_json,
    print_list,
    when,
)
from anneal.cli.settings import client_for
from anneal.client import Client
from anneal.enums import word_of
from anneal.trainer.v1.node_lease_service_pb2 import NodeCapabilities
from anneal.trainer.v1.node_service_pb2 import Node
from anneal.trainer.v1.tuning_job_pb2 import Backend

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The nodes that train. `anneal node` runs one.",
)

NodeArgument = Annotated[str, typer.Argument(help="The node's name.")]


@app.command("list")
def list_nodes(ctx: typer.Context, output: OutputOption = Format.TEXT) -> None:
    """List the nodes that ever asked for work, by name."""
    with client_for(ctx) as client:
        columns: dict[str, Callable[[Node], str]] = {
            "NAME": lambda node: client.names.short(node.name),
            "STATE": _state_word,
            "DEVICES": _devices_text,
            "JOBS": lambda node: str(len(node.tuning_jobs)),
            "LABELS": _labels_text,
            "ASKED": lambda node: when(node.claim_time),
        }
        print_list(client.nodes.list(), columns, output)


@app.command()
def show(ctx: typer.Context, node: NodeArgument, output: OutputOption = Format.TEXT) -> None:
    """Show a node: whether it gets jobs, what it has, and what it trains."""
    with client_for(ctx) as client:
        found = client.nodes.get(node)
        if output is Format.JSON:
            print_json(as_json(found))
        else:
            print_fields(_node_fields(client, found))


@app.command()
def cordon(ctx: typer.Context, node: NodeArgument, output: OutputOption = Format.TEXT) -> None:
    """Have a node get no more jobs; those that it trains go on."""
    with client_for(ctx) as client:
        _print_standing(client, client.nodes.cordon(node), output)


@app.command()
def drain(ctx: typer.Context, node: NodeArgument, output: OutputOption = Format.TEXT) -> None:
    """Empty a node: it gets no more jobs, and those that it trains go on elsewhere.

    Each leaves it after a checkpoint and loses no step. `anneal nodes show` tells which are left.
    """
    with client_for(ctx) as client:
        _print_standing(client, client.nodes.drain(node), output)


@app.command()
def uncordon(ctx: typer.Context, node: NodeArgument, output: OutputOption = Format.TEXT) -> None:
    """Have a cordoned or drained node get jobs again."""
    with client_for(ctx) as client:
        _print_standing(client, client.nodes.uncordon(node), output)


def _print_standing(client: Client, node: Node, output: Format) -> None:
    if output is Format.JSON:
        print_json(as_json(node))
    else:
        print(f"{client.names.short(node.name)} is {_state_word(node)}{_still_on(node)}")


def _still_on(node: Node) -> str:
    count = len(node.tuning_jobs)
    if not count or node.state == Node.STATE_READY:
        return ""
    return f"; {count} jobs are still on it" if count > 1 else "; 1 job is still on it"


def _node_fields(client: Client, node: Node) -> dict[str, str]:
    known: NodeCapabilities = node.capabilities
    return {
        "name": client.names.short(node.name),
        "state": _state_word(node),
        "jobs": "\n".join(map(client.names.short, node.tuning_jobs)),
        "side by side": f"up to {known.engine_count} jobs" if known.engine_count > 1 else "",
        "devices": _devices_text(node),
        "labels": _labels_text(node),
        "backends": ", ".join(word_of(Backend.DESCRIPTOR, one).lower() for one in node.backends),
        "methods": ", ".join(known.tested_methods),
        "methods that failed": ", ".join(known.failed_methods),
        "driver": known.driver_version,
        "torch": known.torch_version,
        "code": known.code_version,
        "asked for work": when(node.claim_time),
    }


def _state_word(node: Node) -> str:
    return word_of(Node.State.DESCRIPTOR, node.state)


def _devices_text(node: Node) -> str:
    if not node.HasField("device"):
        return ""
    count = node.capabilities.device_count
    return f"{count} × " * (count > 1) + device_options.text(node.device)


def _labels_text(node: Node) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(node.labels.items()))
