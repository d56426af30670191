"""What the backends beside Anneal's own cannot do: control refuses it when a job is created, and
the tool's program, with the same words, should one come through all the same."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

METHODS = ("full", "lora", "qlora")
"""Those that each of them trains."""


class Training(Protocol):
    """Of a job's training, what a backend may lack."""

    @property
    def packing(self) -> bool: ...
    @property
    def batch_tokens(self) -> int: ...
    @property
    def early_stopping_patience(self) -> int: ...


@dataclass(frozen=True)
class Asked:
    """A job. `method` has all settings of the method by name, and `kind`; `goes_on`: from an
    earlier result."""

    method: Mapping[str, object]
    training: Training
    on_encoder_decoder: bool
    goes_on: bool


@dataclass(frozen=True)
class Lack:
    """`field` is `method`, `base_model`, `start`, or one of them or of `training` with the setting
    behind it: `training.packing`."""

    field: str
    words: str


def lacks(backend: str, asked: Asked) -> list[Lack]:
    """All that is asked for and that the backend, `unsloth` or `axolotl`, cannot do; Anneal's own
    can."""
    return [
        Lack(field, f"{backend} cannot {what}; the backend builtin can")
        for field, what in (*_of_all(asked), *_of_one(backend, asked.method))
    ]


def _of_all(asked: Asked) -> Iterator[tuple[str, str]]:
    """The field, and what it asks for."""
    kind, training = asked.method["kind"], asked.training
    if kind not in METHODS:
        yield "method", f"train by the method {kind}, only by {', '.join(METHODS)}"
    if asked.on_encoder_decoder:
        yield "base_model", "train an encoder–decoder"
    if asked.goes_on:
        yield "start", "train on from an earlier result"
    if training.packing:
        yield "training.packing", "pack examples unseen by each other"
    if training.batch_tokens:
        yield "training.batch_tokens", "fill batches by tokens"
    if training.early_stopping_patience:
        yield "training.early_stopping_patience", "stop early"


def _of_one(backend: str, method: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    match backend:
        case "axolotl":
            alpha = method.get("alpha")
            if isinstance(alpha, float) and not alpha.is_integer():
                yield "method.alpha", f"scale by {alpha}, only by a whole number"
        case "unsloth":
            if method.get("dora"):
                yield "method.dora", "train by DoRA"
            if method.get("bits") == 4 and not method.get("double_quantization"):
                yield "method.double_quantization", "leave the scales of NF4 as they are"
        case unknown:
            raise ValueError(unknown)
