"""Checkpoints: everything a later process needs to go on as if nothing had happened.

A directory `step-00000040` holds `trainable.safetensors`, `optimizer.safetensors` and
`state.json`. There is no random state in it: every draw is seeded by the step.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from services.trainer.engine.durable import write_directory
from services.trainer.engine.errors import CheckpointRefused

_FORMAT = 1
_STRICT = ConfigDict(strict=True, extra="forbid")
_TRAINABLE, _OPTIMIZER, _STATE = "trainable.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. Losses are in nats per labeled token; None before the first."""

    __pydantic_config__ = _STRICT

    step: int = 0
    loss: float | None = None
    best_loss: float | None = None
    validation_loss: float | None = None
    best_validation_loss: float | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What two runs must share for one to continue the other: sha256 digests, in hex."""

    __pydantic_config__ = _STRICT

    settings: str
    dataset: str
    plan: str
    base_model: str


@dataclass(frozen=True, slots=True)
class Environment:
    """What the last bits of a result depend on besides its inputs."""

    __pydantic_config__ = _STRICT

    torch: str
    transformers: str
    peft: str
    device: str
    threads: int
    matmul_precision: str


@dataclass(frozen=True, slots=True)
class _State:
    __pydantic_config__ = _STRICT

    format: int
    progress: Progress
    identity: Identity
    environment: Environment
    files: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    progress: Progress
    environment: Environment
    trainable: dict[str, Tensor]
    optimizer: dict[str, Tensor]


_STATE_ADAPTER = TypeAdapter(_State)


def checkpoint_path(directory: Path, step: int) -> Path:
    return directory / f"step-{step:08d}"


def save_checkpoint(
    path: Path,
    progress: Progress,
    identity: Identity,
    environment: Environment,
    trainable: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
) -> str:
    """Writes the directory atomically; returns the digest that covers all of it."""
    files = {
        _TRAINABLE: safetensors.save(dict(trainable)),
        _OPTIMIZER: safetensors.save(dict(optimizer)),
    }
    digests = {name: _sha256(content) for name, content in files.items()}
    state = asdict(_State(_FORMAT, progress, identity, environment, digests))
    digest = _state_digest(state)
    text = json.dumps({**state, "digest": digest}, indent=2, sort_keys=True)
    write_directory(path, {**files, _STATE: text.encode()})
    return digest


def load_checkpoint(path: Path, identity: Identity) -> Checkpoint:
    """Raises CheckpointRefused if any byte of it changed, or if it belongs to another run."""
    state = _read_state(path)
    theirs, ours = asdict(state.identity), asdict(identity)
    differing = [name for name in ours if ours[name] != theirs[name]]
    if differing:
        raise CheckpointRefused(path.name, f"was made with another {', '.join(differing)}")
    return Checkpoint(
        progress=state.progress,
        environment=state.environment,
        trainable=_read_tensors(path, _TRAINABLE, state),
        optimizer=_read_tensors(path, _OPTIMIZER, state),
    )


def _read_state(path: Path) -> _State:
    try:
        content: dict[str, Any] = json.loads((path / _STATE).read_bytes())
        digest = content.pop("digest")
        state = _STATE_ADAPTER.validate_json(json.dumps(content))
    except (OSError, ValueError, KeyError, AttributeError, ValidationError) as error:
        raise CheckpointRefused(path.name, f"its {_STATE} is unreadable: {error}") from error
    if digest != _state_digest(content):
        raise CheckpointRefused(path.name, f"its {_STATE} does not match its digest")
    if state.format != _FORMAT:
        raise CheckpointRefused(path.name, f"has format {state.format}, not {_FORMAT}")
    return state


def _read_tensors(path: Path, name: str, state: _State) -> dict[str, Tensor]:
    try:
        content = (path / name).read_bytes()
    except OSError as error:
        raise CheckpointRefused(path.name, f"its {name} is unreadable: {error}") from error
    if _sha256(content) != state.files.get(name):
        raise CheckpointRefused(path.name, f"its {name} does not match its digest")
    try:
        return safetensors.load(content)
    except SafetensorError as error:
        raise CheckpointRefused(path.name, f"its {name} is malformed: {error}") from error


def _state_digest(state: dict[str, Any]) -> str:
    return _sha256(json.dumps(state, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
