"""The operator's list of base models: a TOML file.

[tiny-base]
path = "examples/tiny-base"          # relative to the file

[smol]
hub = "owner/name"
revision = "0123456789abcdef0123456789abcdef01234567"
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from services.common.faults import InvalidArgument
from services.common.settings import ConfigError
from services.registry.domain.base_models import AllowedModel, HubRevision
from services.registry.domain.names import BaseModelName

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"[0-9a-f]{40}")


def read_allow_list(path: Path) -> tuple[AllowedModel, ...]:
    """Raises ConfigError with every problem of the file and of the directories it names."""
    try:
        entries = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"cannot read the base models in {path}: {error}"]) from error
    problems: list[str] = []
    allowed: list[AllowedModel] = []
    for name, entry in entries.items():
        try:
            allowed.append(_allowed(name, entry, path.parent))
        except _Wrong as wrong:
            problems.append(f"{path}: [{name}] {wrong}")
    if problems:
        raise ConfigError(problems)
    return tuple(allowed)


class _Wrong(Exception):
    """What is wrong with one entry."""


def _allowed(name: str, entry: Any, beside: Path) -> AllowedModel:
    try:
        base_model = BaseModelName(name)
    except InvalidArgument as fault:
        raise _Wrong(fault.violations[0].description) from fault
    if not isinstance(entry, dict):
        raise _Wrong("is no table")
    given = cast("dict[str, Any]", entry)
    if not all(isinstance(value, str) for value in given.values()):
        raise _Wrong("holds something that is no text")
    return AllowedModel(base_model, _source(cast("dict[str, str]", given), beside))


def _source(entry: dict[str, str], beside: Path) -> Path | HubRevision:
    match entry:
        case {"path": path, **rest} if not rest:
            return _directory(beside / Path(path).expanduser())
        case {"hub": repository, "revision": revision, **rest} if not rest:
            return _hub(repository, revision)
        case _:
            raise _Wrong("needs either path, or hub and revision, and nothing else")


def _directory(directory: Path) -> Path:
    problem = next(_directory_problems(directory), None)
    if problem is not None:
        raise _Wrong(problem)
    return directory.resolve()


def _directory_problems(directory: Path) -> Iterator[str]:
    if not directory.is_dir():
        yield f"path: {directory} is no directory"
    elif not (directory / "config.json").is_file():
        yield f"path: {directory} holds no config.json"
    elif not any(directory.glob("*.safetensors")):
        yield f"path: {directory} holds no *.safetensors; convert the weights, pickles are refused"


def _hub(repository: str, revision: str) -> HubRevision:
    if _REPOSITORY.fullmatch(repository) is None:
        raise _Wrong(f"hub: {repository!r} is not owner/name")
    if _REVISION.fullmatch(revision) is None:
        raise _Wrong("revision: must be a full commit id of 40 hex digits, for tags can move")
    return HubRevision(repository, revision)
