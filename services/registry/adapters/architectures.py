"""Reads how a model is built from its directory: its config and the headers of its weights.

A safetensors file begins with the length of its header, 8 bytes with the lowest first, and then
the header: JSON with the type, the shape and the place of each tensor. The weights themselves are
not read.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import structlog

from services.registry.domain.architecture import ModelArchitecture, Shape, architecture_of

_log = structlog.get_logger(__name__)

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""The most that the format allows."""
_MAX_CONFIG_BYTES = 10_000_000
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class _Unreadable(Exception):
    """A file is not what it should be; says which and why."""


def read_architecture(directory: Path) -> ModelArchitecture | None:
    """None, and a line in the log, where it cannot be told. Raises OSError if a file cannot be
    read."""
    try:
        config = _document(directory / "config.json")
        shapes = _shapes(directory)
    except _Unreadable as why:
        _log.warning("base_model.architecture_unreadable", why=str(why))
        return None
    found = architecture_of(config, shapes)
    if found is None:
        _log.info("base_model.architecture_unknown", model_type=str(config.get("model_type")))
    return found


def _shapes(directory: Path) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    for path in _weight_files(directory):
        found |= _header(path)
    return found


def _weight_files(directory: Path) -> Sequence[Path]:
    """Those that make up the model, in the order in which transformers looks for them: a
    directory may hold the same weights a second time in other files."""
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    if not (directory / _INDEX).is_file():
        return sorted(directory.glob("*.safetensors"))
    places = _document(directory / _INDEX).get("weight_map")
    if not isinstance(places, dict):
        raise _Unreadable(f"{_INDEX} has no weight_map")
    names = {str(name) for name in cast("dict[str, object]", places).values()}
    files = [directory / name for name in sorted(names)]
    for file in files:
        if file.parent != directory or not file.is_file():
            raise _Unreadable(f"{_INDEX} names {file.name!r}, which is not there")
    return files


def _header(path: Path) -> dict[str, Shape]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > min(_MAX_HEADER_BYTES, path.stat().st_size - _LENGTH_BYTES):
            raise _Unreadable(f"{path.name} is no safetensors file: its header would be too long")
        tensors = _json(path.name, file.read(length))
    return {name: _shape(path, tensors[name]) for name in tensors if name != "__metadata__"}


def _shape(path: Path, tensor: object) -> Shape:
    shape = cast("dict[str, object]", tensor).get("shape") if isinstance(tensor, dict) else None
    if not isinstance(shape, list):
        raise _Unreadable(f"{path.name} has a tensor without a shape")
    sizes = cast("list[Any]", shape)
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise _Unreadable(f"{path.name} has a tensor of the shape {sizes!r:.80}")
    return tuple(sizes)


def _document(path: Path) -> Mapping[str, object]:
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise _Unreadable(f"{path.name} is too long")
    return _json(path.name, path.read_bytes())


def _json(name: str, content: bytes) -> Mapping[str, object]:
    try:
        document: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"{name} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise _Unreadable(f"{name} is no JSON object")
    return cast("dict[str, object]", document)
