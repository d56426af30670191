"""From what a tool has written to the engine's artifacts: the same files, checked against what the
job asked for. Nothing but safetensors is read."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from services.trainer.backends.blueprint import Blueprint, Shapes
from services.trainer.backends.errors import ToolFailed
from services.trainer.backends.tools import Tool
from services.trainer.engine import adapter_files
from services.trainer.engine.artifacts import listed
from services.trainer.engine.durable import writing_directory
from services.trainer.engine.events import Artifact
from services.trainer.engine.job import Job
from services.trainer.engine.methods.full import copy_tokenizer

_CONFIG, _ADAPTER = "config.json", "adapter_model.safetensors"
_KEPT = ("generation_config.json", "model.safetensors.index.json")
_SETTINGS = ("r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "bias", "peft_type")
"""Of an adapter: what its tensors' names and shapes do not tell."""
_SHOWN = 5


def import_result(
    tool: Tool, job: Job, blueprint: Blueprint, output_dir: Path
) -> tuple[Artifact, ...]:
    """Raises ToolFailed if the result is not there, not readable, or another than asked for."""
    try:
        with writing_directory(job.artifacts_dir) as target:
            if blueprint.adapter_config is None:
                _import_model(tool, job, blueprint.tensors, output_dir, target)
            else:
                _import_adapter(tool, blueprint, blueprint.adapter_config, output_dir, target)
    except (OSError, ValueError, SafetensorError) as error:
        raise ToolFailed(f"the result of {tool} cannot be read: {error}") from error
    return listed(job.artifacts_dir)


def _import_adapter(
    tool: Tool, blueprint: Blueprint, config: str, source: Path, target: Path
) -> None:
    """The configuration is the engine's own: the tool's may name this machine's paths."""
    tensors: dict[str, Tensor] = safetensors.load_file(source / _ADAPTER)
    _compare(tool, adapter_files.shapes(tensors), blueprint.tensors)
    theirs, ours = _object(source / "adapter_config.json"), json.loads(config)
    other = [name for name in _SETTINGS if _plain(theirs.get(name)) != _plain(ours.get(name))]
    if other:
        told = ", ".join(f"{n} {theirs.get(n)} instead of {ours.get(n)}" for n in other)
        raise ToolFailed(f"{tool} has trained another adapter than asked for: {told}")
    (target / "adapter_config.json").write_text(config)
    safetensors.save_file(tensors, target / _ADAPTER, metadata={"format": "pt"})


def _import_model(tool: Tool, job: Job, expected: Shapes, source: Path, target: Path) -> None:
    """The configuration and the tokenizer are the base model's, which training does not change."""
    weights = sorted(source.glob("*.safetensors"))
    if not weights:
        raise ToolFailed(f"{tool} has left no *.safetensors file")
    found = {name: shape for path in weights for name, shape in _shapes_of_file(path).items()}
    _compare(tool, {name: found[name] for name in expected if name in found}, expected)
    for path in (*weights, *(source / name for name in _KEPT)):
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    config = _object(job.base_model_dir / _CONFIG)
    config.pop("torch_dtype", None)
    theirs = _object(source / _CONFIG)
    config["dtype"] = theirs.get("dtype", theirs.get("torch_dtype"))
    (target / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    copy_tokenizer(job.base_model_dir, target)


def _compare(tool: Tool, found: Shapes, expected: Shapes) -> None:
    names = found.keys() | expected.keys()
    other = sorted(name for name in names if found.get(name) != expected.get(name))
    if other:
        told = "; ".join(f"{n} {found.get(n)} instead of {expected.get(n)}" for n in other[:_SHOWN])
        more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
        raise ToolFailed(f"{tool} has left other weights than asked for: {told}{more}")


def _shapes_of_file(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, framework="pt") as file:
        reader: Any = file  # untyped
        names: list[str] = reader.keys()
        return {name: tuple(reader.get_slice(name).get_shape()) for name in names}


def _plain(value: object) -> object:
    """`16` and `16.0`, and what is false and what is left out, are the same setting."""
    return float(value) if isinstance(value, int | float) else value or 0.0


def _object(path: Path) -> dict[str, Any]:
    content: object = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not an object")
    return cast("dict[str, Any]", content)
