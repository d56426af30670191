"""`anneal up`."""

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from anneal.addresses import DATA_DIR_VARIABLE, DEFAULT_DATA_DIR
from anneal.cli.exits import Exit
from anneal.cli.settings import Settings
from anneal.up.failures import PlatformError
from anneal.up.platform import Platform
from anneal.up.ports import PORT_BASE
from anneal.up.terminal import Terminal

app = typer.Typer(add_completion=False)


@app.command()
def up(
    ctx: typer.Context,
    data_dir: Annotated[
        Path | None,
        typer.Option(envvar=DATA_DIR_VARIABLE, help=f"Where state lives [{DEFAULT_DATA_DIR}]."),
    ] = None,
    port_base: Annotated[
        int, typer.Option(min=1, max=65000, help="Services listen here and on the next four.")
    ] = PORT_BASE,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Choose free ports instead.")
    ] = False,
    base_models: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="TOML list of the allowed base models."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Programs write to <data-dir>/logs only.")
    ] = False,
) -> None:
    """Run every service, a training node and the event bus on this machine, until Ctrl-C.

    State is in the data directory and is there at the next start. Everything listens on loopback
    only, without keys.
    """
    terminal = Terminal(quiet=quiet)
    try:
        platform = Platform(
            data_dir or Settings.of(ctx).data_dir or Path(DEFAULT_DATA_DIR),
            port_base=port_base,
            ephemeral=ephemeral,
            base_models=base_models,
            audience=terminal,
        )
        _run(platform, terminal)
    except PlatformError as error:
        terminal.failed(error)
        raise typer.Exit(Exit.FAILURE) from error


def _run(platform: Platform, terminal: Terminal) -> None:
    def ask_to_stop(number: int, _frame: FrameType | None) -> None:
        terminal.stopping(signal.Signals(number).name)
        platform.ask_to_stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask_to_stop)
    terminal.addresses = platform.listening()
    with platform:
        if platform.is_complete:
            terminal.complete(platform)
            platform.wait()
    terminal.stopped()
