"""What commands print: tables for people, tab-separated lines for pipes, JSON for programs."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

M = TypeVar("M", bound=Message)


class Format(StrEnum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[
    Format, typer.Option("--output", "-o", help="`json` for programs: one document, or lines.")
]
Columns = Mapping[str, Callable[[M], str]]


def is_terminal() -> bool:
    """Whether a person looks at standard output."""
    return sys.stdout.isatty()


def as_json(message: Message) -> dict[str, Any]:
    """Returns a message as its proto JSON, with the proto's own field names."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def print_json(document: object) -> None:
    """Prints one document, indented."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_line(message: Message) -> None:
    """Prints one document on one line, at once."""
    print(json.dumps(as_json(message), ensure_ascii=False), flush=True)


def print_created(
    made: Message, output: Format, told: str | Mapping[str, str], *, more_follows: bool
) -> None:
    """Prints what was made: in words a sentence, or the fields of what was only checked. JSON is a
    line where `more_follows`."""
    if output is Format.JSON and more_follows:
        print_json_line(made)
    elif output is Format.JSON:
        print_json(as_json(made))
    elif isinstance(told, str):
        print(told, flush=True)
    else:
        print("all good; nothing was created. It would be:")
        print_fields(told)


def print_list(items: Iterable[M], columns: Columns[M], output: Format) -> None:
    """Prints resources: a JSON array, a table on a terminal, else tab-separated lines."""
    if output is Format.JSON:
        print_json([as_json(item) for item in items])
    elif is_terminal():
        print_table(list(columns), [[cell(item) for cell in columns.values()] for item in items])
    else:
        for item in items:
            print("\t".join(cell(item) for cell in columns.values()))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def print_fields(fields: Mapping[str, str]) -> None:
    """Prints `name  value` lines, aligned, also those of a value; empty values are left out."""
    shown = {name: value for name, value in fields.items() if value}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        first, *more = value.splitlines()
        print(f"{name:<{width}}  {first}", *(f"{'':<{width}}  {line}" for line in more), sep="\n")


def print_deleted(name: str, output: Format) -> None:
    """Says that what goes by `name` is gone."""
    if output is Format.JSON:
        print_json({"deleted": name})
    else:
        print(f"deleted {name}")


def one_line(text: str) -> str:
    """Returns a model's or an engine's words without line breaks, nor anything that a terminal
    would obey."""
    printable = (char if char.isprintable() else " " for char in text)
    return " ".join("".join(printable).split())


def when(timestamp: Timestamp) -> str:
    """Returns a time in the zone of this machine; empty when it is unset."""
    if not timestamp.seconds:
        return ""
    return f"{datetime.fromtimestamp(timestamp.seconds).astimezone():%Y-%m-%d %H:%M:%S}"


def size(size_bytes: int) -> str:
    """Returns `12 B`, `3.4 kB`, `5.6 MB` …"""
    amount, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def duration(seconds: float) -> str:
    """Returns `0:07`, `12:34` or `1:02:03`."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
