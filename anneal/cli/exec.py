"""Becoming a program of the platform."""

import os
import sys
from importlib.util import find_spec
from typing import NoReturn

import typer

from anneal.addresses import find_addresses
from anneal.cli.exits import Exit
from anneal.cli.settings import Settings
from anneal.up.programs import PYTHON, missing_extras


def become(ctx: typer.Context, module: str) -> NoReturn:
    """Replaces this process by `python -m module`, told where the other services are."""
    if find_spec(module.partition(".")[0]) is None or "server" in missing_extras():
        print("this needs more parts: pip install 'anneal[server,node]'", file=sys.stderr)
        raise typer.Exit(Exit.FAILURE)
    environment = Settings.of(ctx).environment()
    told = find_addresses(environment).to_environment() | environment
    os.execve(sys.executable, [*PYTHON, module], told)
