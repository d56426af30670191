"""`anneal model`."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from anneal.cli.printing import (
    Format,
    OutputOption,
    as_json,
    is_terminal,
    print_deleted,
    print_fields,
    print_json,
    print_list,
    size,
    when,
)
from anneal.cli.settings import client_for
from anneal.client import Client
from anneal.names import last_part
from anneal.registry.v1.base_model_pb2 import BaseModel
from anneal.registry.v1.model_pb2 import ModelAlias, ModelVersion


class SetByDefault(TyperGroup):
    """`alias support champion` is `alias set support champion`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        named = args if args[0] in self.commands else ["set", *args]
        return super().resolve_command(ctx, named)


app = typer.Typer(no_args_is_help=True, add_completion=False, help="Models.")
alias_app = typer.Typer(
    cls=SetByDefault,
    no_args_is_help=True,
    help="Movable names for versions. `alias support champion` sets one.",
)
app.add_typer(alias_app, name="alias")

ModelArgument = Annotated[str, typer.Argument(help="The model, for example `support`.")]
AliasArgument = Annotated[str, typer.Argument(help="The alias, for example `champion`.")]
VersionArgument = Annotated[
    str, typer.Argument(help="`support@champion`, `support/v-…`, or `support` for its newest.")
]
EtagOption = Annotated[str, typer.Option(help="Only if this is the alias's present etag.")]


@app.command("list")
def list_models(
    ctx: typer.Context,
    base: Annotated[bool, typer.Option("--base", help="The base models instead.")] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """List the project's models, or the base models that jobs may start from."""
    with client_for(ctx) as client:
        if base:
            print_list(client.models.base_models(), _base_columns(client), output)
            return
        print_list(
            client.models.list(),
            {
                "NAME": lambda model: client.names.short(model.name),
                "LATEST": lambda model: last_part(model.latest_version),
                "VERSIONS": lambda model: str(model.version_count),
                "UPDATED": lambda model: when(model.update_time),
            },
            output,
        )


@app.command()
def show(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A model (`support`) or a version (`support@champion`).")
    ],
    card: Annotated[bool, typer.Option("--card", help="The version's model card.")] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Show a model with its versions, or a version with its lineage, figures and files."""
    with client_for(ctx) as client:
        if card:
            _print_card(client.models.card(name), name, output)
        elif _is_model(name):
            _show_model(client, name, output)
        else:
            _show_version(client, client.models.version(name), output)


@app.command()
def download(
    ctx: typer.Context,
    version: VersionArgument,
    directory: Annotated[
        Path | None, typer.Argument(help="Where to; default: named like model and version.")
    ] = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """Download a version's files; the directory appears when every sha256 agrees."""
    with client_for(ctx) as client:
        found = client.models.version(version)
        target = directory or Path(client.names.short(found.name).replace("/", "-"))
        with _download_bar(output) as on_progress:
            client.models.download(found.name, target, on_progress=on_progress)
        if output is Format.JSON:
            print_json({"directory": str(target), "version": as_json(found)})
        else:
            whole = sum(artifact.size_bytes for artifact in found.artifacts)
            print(f"{target}: {len(found.artifacts)} files, {size(whole)}")


@alias_app.command("set")
def set_alias(
    ctx: typer.Context,
    model: ModelArgument,
    alias: AliasArgument,
    version: Annotated[str, typer.Option(help="The version; default: the newest.")] = "",
    etag: EtagOption = "",
    output: OutputOption = Format.TEXT,
) -> None:
    """Make an alias, or move it."""
    with client_for(ctx) as client:
        moved = client.models.set_alias(model, alias, version, etag=etag)
        if output is Format.JSON:
            print_json(as_json(moved))
        else:
            short = client.names.short
            print(f"{short(moved.name)} is {short(moved.version)}")


@alias_app.command("list")
def list_aliases(
    ctx: typer.Context, model: ModelArgument, output: OutputOption = Format.TEXT
) -> None:
    """List a model's aliases."""
    columns: dict[str, Callable[[ModelAlias], str]] = {
        "ALIAS": lambda alias: last_part(alias.name),
        "VERSION": lambda alias: last_part(alias.version),
        "MOVED": lambda alias: when(alias.update_time),
        "ETAG": lambda alias: alias.etag,
    }
    with client_for(ctx) as client:
        print_list(client.models.aliases(model), columns, output)


@alias_app.command("delete")
def delete_alias(
    ctx: typer.Context,
    model: ModelArgument,
    alias: AliasArgument,
    etag: EtagOption = "",
    output: OutputOption = Format.TEXT,
) -> None:
    """Remove an alias; the version stays."""
    with client_for(ctx) as client:
        client.models.delete_alias(model, alias, etag=etag)
        print_deleted(f"{model}@{alias}", output)


def _is_model(name: str) -> bool:
    if name.startswith("projects/"):
        return "/versions/" not in name and "/aliases/" not in name
    return "@" not in name and "/" not in name


def _show_model(client: Client, name: str, output: Format) -> None:
    model = client.models.get(name)
    versions = client.models.versions(name)
    if output is Format.JSON:
        print_json({**as_json(model), "versions": [as_json(one) for one in versions]})
        return
    print_fields({"name": client.names.short(model.name), "created": when(model.create_time)})
    columns: dict[str, Callable[[ModelVersion], str]] = {
        "#": lambda version: str(version.ordinal),
        "VERSION": lambda version: last_part(version.name),
        "ALIASES": lambda version: ", ".join(version.aliases),
        "HELD-OUT": lambda version: _metric(version, "validation_loss"),
        "BASE": lambda version: client.names.short(version.lineage.base_model),
        "CREATED": lambda version: when(version.create_time),
    }
    print_list(versions, columns, output)


def _show_version(client: Client, version: ModelVersion, output: Format) -> None:
    if output is Format.JSON:
        print_json(as_json(version))
        return
    short, lineage = client.names.short, version.lineage
    print_fields(
        {
            "name": short(version.name),
            "aliases": ", ".join(version.aliases),
            "created": when(version.create_time),
            "job": short(lineage.tuning_job),
            "dataset": short(lineage.dataset_version),
            "base model": short(lineage.base_model),
            "continued from": short(lineage.start_version),
            "method": lineage.method,
            "code": lineage.code_version,
            **{name: f"{value:.6g}" for name, value in sorted(version.metrics.items())},
            **{one.path: f"{size(one.size_bytes)}  {one.sha256}" for one in version.artifacts},
        }
    )


def _print_card(markdown: str, name: str, output: Format) -> None:
    if output is Format.JSON:
        print_json({"name": name, "markdown": markdown})
    elif is_terminal():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(markdown))
    else:
        print(markdown)


def _base_columns(client: Client) -> dict[str, Callable[[BaseModel], str]]:
    return {
        "NAME": lambda base: client.names.short(base.name),
        "SIZE": lambda base: size(base.size_bytes) if base.size_bytes else "",
        "SOURCE": lambda base: (
            f"{base.source.hub.repository}@{base.source.hub.revision[:12]}"
            if base.source.HasField("hub")
            else "here"
        ),
    }


def _metric(version: ModelVersion, name: str) -> str:
    return f"{version.metrics[name]:.4f}" if name in version.metrics else ""


@contextmanager
def _download_bar(output: Format) -> Generator[Callable[[int, int], None] | None]:
    """Shows a bar on a terminal while files come over."""
    if output is Format.JSON or not is_terminal():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    with Progress(BarColumn(), DownloadColumn(), TransferSpeedColumn(), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda came, total: bar.update(task, completed=came, total=total)
