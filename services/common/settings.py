"""Configuration: a frozen dataclass read from the environment and, below it, a TOML file."""

import os
import secrets
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_origin, get_type_hints

import structlog
from pydantic import TypeAdapter, ValidationError

from services.common.paging import PageTokens
from services.common.process import StartupError

D = TypeVar("D")
Raw = dict[str, Any]

_SECRET_BYTES = 32
_log = structlog.get_logger(__name__)


class ConfigError(StartupError):
    """What is wrong with the configuration: every problem, never a value (it may be a secret)."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("configuration: " + "; ".join(problems))
        self.problems = problems


def read(cls: type[D], prefix: str = "ANNEAL_", env: Mapping[str, str] | None = None) -> D:
    """Reads `cls`, a dataclass of str, int, float, bool, Path, tuple[str, ...], their optionals and
    dataclasses of these.

    The field `keys_file` comes from `ANNEAL_KEYS_FILE`; a field `server` that is a dataclass from
    `ANNEAL_SERVER_<FIELD>`; a tuple from text with commas. `ANNEAL_CONFIG` names a TOML file with
    the same fields (a table for a dataclass); the environment wins. An empty variable is unset.
    Raises ConfigError with all problems at once.
    """
    env = os.environ if env is None else env
    problems: list[str] = []
    raw = _merged(
        _from_file(cls, env.get(f"{prefix}CONFIG"), problems), _from_env(cls, prefix, env)
    )
    try:
        value = TypeAdapter(cls).validate_python(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        problems += [f"{_variable(prefix, one['loc'])}: {one['msg']}" for one in found]
    else:
        if not problems:
            return value
    raise ConfigError(problems)


def page_tokens(secret: str) -> PageTokens:
    """The signer for ANNEAL_PAGE_SECRET, which is hex and the same for all replicas and starts.

    Without a secret, tokens are good for this process only. Raises ConfigError.
    """
    if not secret:
        _log.warning("page_secret.generated", set="ANNEAL_PAGE_SECRET")
        return PageTokens(secrets.token_bytes(_SECRET_BYTES))
    try:
        return PageTokens(bytes.fromhex(secret))
    except ValueError as error:
        raise ConfigError(["ANNEAL_PAGE_SECRET must be hex, 16 bytes at least"]) from error


def _from_env(cls: type[Any], prefix: str, env: Mapping[str, str]) -> Raw:
    raw: Raw = {}
    for name, kind in _fields(cls):
        variable = prefix + name.upper()
        if is_dataclass(kind):
            raw[name] = _from_env(cast(type[Any], kind), variable + "_", env)
        elif text := env.get(variable):
            raw[name] = _split(text) if get_origin(kind) is tuple else text
    return raw


def _from_file(cls: type[Any], path: str | None, problems: list[str]) -> Raw:
    if not path:
        return {}
    try:
        raw = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"cannot read {path}: {error}")
        return {}
    problems += [f"{path}: there is no setting {key!r}" for key in _unknown(cls, raw, "")]
    return raw


def _unknown(cls: type[Any], raw: Raw, path: str) -> Iterator[str]:
    known = dict(_fields(cls))
    for key, value in raw.items():
        kind = known.get(key)
        if kind is None:
            yield path + key
        elif is_dataclass(kind) and isinstance(value, dict):
            yield from _unknown(cast(type[Any], kind), cast(Raw, value), f"{path}{key}.")


def _merged(below: Raw, above: Raw) -> Raw:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(value, dict) and isinstance(under, dict)
        merged[key] = _merged(cast(Raw, under), cast(Raw, value)) if both else value
    return merged


def _fields(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(cls)
    return ((field.name, hints[field.name]) for field in fields(cls) if field.init)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)


def _variable(prefix: str, location: tuple[int | str, ...]) -> str:
    return prefix + "_".join(str(part).upper() for part in location)
