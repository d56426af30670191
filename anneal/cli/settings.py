"""What all commands share: the global options, and the client they lead to."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from anneal.addresses import DATA_DIR_VARIABLE

if TYPE_CHECKING:
    from anneal.client import Client


@dataclass(frozen=True)
class Settings:
    """The global options. `data_dir` None: `anneal-data` in the working directory."""

    project: str = "default"
    data_dir: Path | None = None

    @classmethod
    def of(cls, ctx: typer.Context) -> "Settings":
        return ctx.find_object(cls) or cls()

    def environment(self) -> dict[str, str]:
        """Returns the process's environment, with the data directory that was chosen."""
        chosen = {} if self.data_dir is None else {DATA_DIR_VARIABLE: str(self.data_dir)}
        return {**os.environ, **chosen}


@contextmanager
def client_for(ctx: typer.Context) -> "Generator[Client]":
    """Opens the client that the command's global options and environment ask for."""
    from anneal.client import Client

    settings = Settings.of(ctx)
    try:
        client = Client(project=settings.project, environment=settings.environment())
    except ValueError as error:  # a damaged addresses file, or an API key without TLS
        raise typer.BadParameter(str(error)) from error
    with client:
        yield client
