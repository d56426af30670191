"""The command's root: global options, the nouns, and the one place where errors end."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from anneal.addresses import DATA_DIR_VARIABLE
from anneal.cli.exits import MEANINGS, Exit, exit_for
from anneal.cli.settings import Settings
from anneal.errors import AnnealError

NOUNS = {
    "up": "Run every service on this machine.",
    "serve": "Run one service, configured by its environment.",
    "node": "Run a training node, configured by its environment.",
    "nodes": "Training nodes: list, show, cordon, drain, uncordon.",
    "dataset": "Labeled examples: push, list, show, preview, tokens, delete.",
    "job": "Tuning jobs: estimate, create, list, show, watch, pause, resume, retry, cancel.",
    "sweep": "Searches for a job's learning rate and rank: create, list, show, watch, cancel.",
    "quota": "What a project may take of the queue: show, set.",
    "model": "Models: list, show, download, alias.",
    "chat": "Talk to a model.",
    "abtest": "Blind A/B tests: create, vote, report.",
    "doctor": "Check this installation.",
}
"""Every command and its help. Its module, `anneal.cli.<noun>`, is imported when it is called."""

EXIT_CODES = "Exit codes: " + "; ".join(f"{code:d} {words}" for code, words in MEANINGS.items())


class Nouns(TyperGroup):
    """Loads a command's module when the command is called, not for a list of all."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        if name is None:
            return None, None, rest
        module = import_module(f"anneal.cli.{name}")
        return name, typer.main.get_command(module.app), rest


app = typer.Typer(
    name="anneal",
    cls=Nouns,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _placeholder() -> None:
    """Stands in lists for a command that is loaded when it is called."""


for noun, summary in NOUNS.items():
    app.command(noun, help=summary)(_placeholder)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # not for every help text

        typer.echo(version("anneal"))
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    project: Annotated[
        str, typer.Option(envvar="ANNEAL_PROJECT", help="The project that short names belong to.")
    ] = "default",
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar=DATA_DIR_VARIABLE, help="The data directory of an `anneal up` on this machine."
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Supervised fine-tuning on your own machines: upload labeled examples, tune a model, watch it
    live, and prove in a blind test that it is better.
    """
    ctx.obj = Settings(project, data_dir)


def run(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code; errors go to stderr in one block."""
    try:
        app(list(arguments), prog_name="anneal")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.FAILURE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except AnnealError as error:
        from anneal.cli.failures import describe

        print(describe(error), file=sys.stderr)
        return exit_for(error)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return Exit.FAILURE
    return Exit.OK
