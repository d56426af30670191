"""Checkpoints: everything a later process needs to go on as if nothing had happened.

A directory `step-00000040` holds `trainable.safetensors`, `optimizer.safetensors`, `state.json`
and, in a run that may stop early, the best parameters so far as `best.safetensors`. There is no
random state in it: every draw is seeded by the step.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from services.trainer.engine.durable import remove_directory, writing_directory
from services.trainer.engine.errors import CheckpointRefused

_FORMAT = 2
_STRICT = ConfigDict(strict=True, extra="forbid")
_TRAINABLE, _OPTIMIZER = "trainable.safetensors", "optimizer.safetensors"
_BEST, _STATE = "best.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. Losses are in nats per labeled token; None before the first.

    `token_accuracy` stands beside `validation_loss`, the share of labeled tokens that were the
    model's first choice. `stalled_evaluations` counts those since the lowest held-out loss, which
    `best_step` had.
    `micro_batch_tokens` and `recompute` are what memory has forced the run to: parts of at most so
    many tokens (0: no limit), and activations computed again instead of kept.
    """

    __pydantic_config__ = _STRICT

    step: int = 0
    loss: float | None = None
    best_loss: float | None = None
    validation_loss: float | None = None
    token_accuracy: float | None = None
    best_validation_loss: float | None = None
    best_token_accuracy: float | None = None
    best_step: int | None = None
    stalled_evaluations: int = 0
    micro_batch_tokens: int = 0
    recompute: bool = False


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
    processes: int
    matmul_precision: str
    compute_dtype: str
    gains: tuple[str, ...]
    sharded: bool = False


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
    best: dict[str, Tensor] | None


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
    best: Mapping[str, Tensor] | None,
) -> str:
    """Writes the directory atomically; returns the digest that covers all of it."""
    tensors = {_TRAINABLE: trainable, _OPTIMIZER: optimizer}
    if best is not None:
        tensors[_BEST] = best
    with writing_directory(path) as directory:
        digests: dict[str, str] = {}
        for name, values in tensors.items():
            safetensors.save_file(dict(values), directory / name)
            digests[name] = _file_sha256(directory / name)
        state = asdict(_State(_FORMAT, progress, identity, environment, digests))
        digest = _state_digest(state)
        text = json.dumps({**state, "digest": digest}, indent=2, sort_keys=True)
        (directory / _STATE).write_text(text)
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
        best=_read_tensors(path, _BEST, state) if _BEST in state.files else None,
    )


def load_latest(path: Path, identity: Identity) -> tuple[Checkpoint, list[CheckpointRefused]]:
    """The one at `path`, or if it is of no use the latest before it in the same directory; and why
    it is none of those after it.

    Raises CheckpointRefused, with what is wrong with `path`, if there is none.
    """
    earlier = [other for other in path.parent.glob("step-*") if other.name < path.name]
    refused: list[CheckpointRefused] = []
    for candidate in (path, *sorted(earlier, reverse=True)):
        try:
            return load_checkpoint(candidate, identity), refused
        except CheckpointRefused as error:
            refused.append(error)
    raise refused[0]


def drop_old_checkpoints(directory: Path, progress: Progress, last: int, every: int) -> None:
    """Of those up to where the run is removes all but the `last` newest, those of steps divisible
    by `every` (if not 0), and the best. (Later ones can only be of an earlier life.)"""
    found = (int(path.name.removeprefix("step-")) for path in directory.glob("step-*"))
    steps = sorted(step for step in found if step <= progress.step)
    for step in steps[:-last]:
        if step != progress.best_step and not (every and step % every == 0):
            remove_directory(checkpoint_path(directory, step))


def tensors_digest(*groups: Mapping[str, Tensor]) -> str:
    """A sha256 over the names, kinds, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for tensors in groups:
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


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
        digest = _file_sha256(path / name)
    except OSError as error:
        raise CheckpointRefused(path.name, f"its {name} is unreadable: {error}") from error
    if digest != state.files.get(name):
        raise CheckpointRefused(path.name, f"its {name} does not match its digest")
    try:
        return safetensors.load_file(path / name)
    except (OSError, SafetensorError) as error:
        raise CheckpointRefused(path.name, f"its {name} is malformed: {error}") from error


def _state_digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
