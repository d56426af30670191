"""What deploy/compose.yaml says, with its variables filled in."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@dataclass(frozen=True)
class Program:
    """A service of ours: its name, what it is started with, and what its container has."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    definition: Mapping[str, Any]


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """Raises KeyError for a variable that has neither a value nor a default."""
    return filled(yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8")), variables)


def programs(variables: Mapping[str, str]) -> Iterator[Program]:
    for name, definition in compose(variables)["services"].items():
        command = tuple(definition.get("command", ()))
        if command[:1] == ("anneal",):
            yield Program(name, command, definition["environment"], definition)


def read_variables(path: Path) -> dict[str, str]:
    """A file for `--env-file`."""
    return dict(line.split("=", 1) for line in path.read_text("utf-8").splitlines())


def filled(value: Any, variables: Mapping[str, str]) -> Any:
    match value:
        case str():
            return _VARIABLE.sub(lambda found: _value(found, variables), value)
        case list():
            return [filled(one, variables) for one in value]
        case dict():
            return {key: filled(one, variables) for key, one in value.items()}
        case _:
            return value


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, kind, default = found.groups()
    if name in variables or kind != "-":
        return variables[name]
    return default
