"""`anneal dataset`."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from anneal.cli.dataset_format import agreed_format, columns_named, document_of, format_named
from anneal.cli.dataset_tokens import tokens
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
from anneal.common.v1.conversation_pb2 import ChatMessage
from anneal.conversations import role_word
from anneal.dataset.v1.dataset_pb2 import CONTAINER_UNSPECIFIED, DatasetVersion, Example
from anneal.names import id_from, last_part

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Labeled examples.")
app.command()(tokens)

NameArgument = Annotated[str, typer.Argument(help="The dataset, for example `support`.")]
VersionArgument = Annotated[
    str, typer.Argument(help="`support` (its newest version) or `support/v-…`.")
]


@app.command()
def push(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="JSON lines.")
    ],
    name: Annotated[
        str, typer.Option(help="The dataset that gets the version; default: the file's name.")
    ] = "",
    prompt_field: Annotated[
        str, typer.Option(help="Prompt/completion lines: the prompt's field [prompt].")
    ] = "",
    completion_field: Annotated[
        str, typer.Option(help="Prompt/completion lines: the completion's field [completion].")
    ] = "",
    text_field: Annotated[
        str, typer.Option(help="Plain-text lines: the text's field [text].")
    ] = "",
    row_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="chat, prompt-completion, text, alpaca or sharegpt [found out from the file].",
        ),
    ] = "",
    column: Annotated[
        list[str] | None,
        typer.Option(help="A field of the format and its column, `prompt=question`; repeatable."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Take the columns that are found; do not ask.")
    ] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check every line, store nothing.")
    ] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Upload a file of labeled examples as a new version.

    Its format is found out, and shown where columns would be renamed or dropped. Nothing is stored
    unless every line is good; else every bad line is listed.
    """
    dataset = name or id_from(file.stem, "dataset")
    source_format, columns = format_named(row_format), columns_named(column or [])
    container, document = CONTAINER_UNSPECIFIED, None
    with client_for(ctx) as client:
        if not (source_format or prompt_field or completion_field or text_field):
            found = agreed_format(client, file, yes=yes)
            source_format, columns = found.format, dict(found.columns) | columns
            container, document = found.container, document_of(found)
        with _upload_bar(file, output) as on_progress:
            version = client.datasets.upload(
                file,
                dataset,
                source_format=source_format,
                prompt_field=prompt_field,
                completion_field=completion_field,
                text_field=text_field,
                columns=columns,
                container=container,
                document=document,
                validate_only=validate_only,
                on_progress=on_progress,
            )
    if output is Format.JSON:
        print_json(as_json(version))
    elif validate_only:
        print(f"{version.example_count:,} examples, all good; nothing was stored")
    else:
        _print_stored(client, version)


@app.command("list")
def list_datasets(ctx: typer.Context, output: OutputOption = Format.TEXT) -> None:
    """List the project's datasets."""
    with client_for(ctx) as client:
        print_list(
            client.datasets.list(),
            {
                "NAME": lambda dataset: client.names.short(dataset.name),
                "LATEST": lambda dataset: last_part(dataset.latest_version),
                "VERSIONS": lambda dataset: str(dataset.version_count),
                "UPDATED": lambda dataset: when(dataset.update_time),
            },
            output,
        )


@app.command()
def show(ctx: typer.Context, name: NameArgument, output: OutputOption = Format.TEXT) -> None:
    """Show a dataset and its versions."""
    with client_for(ctx) as client:
        dataset = client.datasets.get(name)
        versions = client.datasets.versions(name)
        if output is Format.JSON:
            print_json({**as_json(dataset), "versions": [as_json(one) for one in versions]})
            return
        print_fields(
            {
                "name": client.names.short(dataset.name),
                "created": when(dataset.create_time),
                "updated": when(dataset.update_time),
                "etag": dataset.etag,
            }
        )
        print_list(versions, _VERSION_COLUMNS, output)


@app.command()
def preview(
    ctx: typer.Context,
    version: VersionArgument,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many examples.")] = 5,
    output: OutputOption = Format.TEXT,
) -> None:
    """Print the first examples of a version."""
    with client_for(ctx) as client:
        examples = client.datasets.preview(version, limit=limit)
        if output is Format.JSON:
            print_json([as_json(example) for example in examples])
            return
        for example in examples:
            _print_example(example)


@app.command()
def delete(
    ctx: typer.Context,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    etag: Annotated[str, typer.Option(help="Only if this is the present etag.")] = "",
    output: OutputOption = Format.TEXT,
) -> None:
    """Delete a dataset with all its versions."""
    if not yes:
        typer.confirm(f"Delete {name} and all its versions?", abort=True)
    with client_for(ctx) as client:
        client.datasets.delete(name, etag=etag)
        print_deleted(name, output)


_VERSION_COLUMNS: dict[str, Callable[[DatasetVersion], str]] = {
    "VERSION": lambda version: last_part(version.name),
    "EXAMPLES": lambda version: f"{version.example_count:,}",
    "SIZE": lambda version: size(version.size_bytes),
    "CREATED": lambda version: when(version.create_time),
}


def _print_stored(client: Client, version: DatasetVersion) -> None:
    short = client.names.short(version.name)
    print(f"{short}: {version.example_count:,} examples, {size(version.size_bytes)}")
    if is_terminal():
        dataset = short.partition("/")[0]
        print(f"next: anneal job create --dataset {dataset} --base tiny-base --watch")


def _print_example(example: Example) -> None:
    print(f"#{example.index}")
    if example.text:
        print(f"  text: {example.text}")
    if example.tools:
        print(f"  tools: {example.tools}")
    for turn in example.messages:
        print(f"  {role_word(turn.role)}{_how_learnt(turn)}: {turn.content}")
        for call in turn.tool_calls:
            print(f"    calls {call.name}: {call.arguments}")


def _how_learnt(turn: ChatMessage) -> str:
    """Nothing where it goes without saying."""
    if turn.HasField("weight"):
        return f" (weight {turn.weight:g})"
    unlearnt = role_word(turn.role) == "assistant" and turn.HasField("train") and not turn.train
    return " (not learnt)" if unlearnt else ""


@contextmanager
def _upload_bar(file: Path, output: Format) -> Generator[Callable[[int, int], None] | None]:
    """Shows a bar on a terminal while a file goes over."""
    if output is Format.JSON or not is_terminal():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), transient=True) as progress:
        task = progress.add_task(file.name, total=file.stat().st_size)
        yield lambda sent, _total: progress.update(task, completed=sent)
