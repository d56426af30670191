"""How many parameters a method trains on a base model: exact, as the engine counts them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from services.common.faults import Violation
from services.trainer.control.domain.estimation.architecture import Architecture, LinearLayers
from services.trainer.control.domain.methods import (
    AdapterMethod,
    FullMethod,
    LoraMethod,
    Method,
    Placement,
    PrefixMethod,
    QloraMethod,
)


@dataclass(frozen=True)
class Parameters:
    """`base` are those of the base model, `added` those that the method puts beside them, and
    `trained` those that change."""

    base: int
    added: int
    trained: int

    @property
    def total(self) -> int:
        return self.base + self.added


def parameters(architecture: Architecture, method: Method) -> Parameters:
    base = architecture.parameter_count
    if isinstance(method, FullMethod):
        return Parameters(base, added=0, trained=base)
    added = _added(architecture, method)
    return Parameters(base, added, trained=added)


def target_layers(
    architecture: Architecture, method: LoraMethod | QloraMethod
) -> Sequence[LinearLayers]:
    """The layers that get a low-rank update: all linear ones, unless the method names some."""
    wanted = method.target_modules
    return [one for one in architecture.linear_layers if not wanted or one.name in wanted]


def unknown_targets(architecture: Architecture, method: Method) -> Sequence[Violation]:
    """The target modules that the base model does not have."""
    if not isinstance(method, LoraMethod | QloraMethod):
        return []
    names = sorted({layers.name for layers in architecture.linear_layers})
    return [
        Violation(
            f"tuning_job.{method.kind}.target_modules.{index}",
            f"the base model has no layer {name!r}; there are {', '.join(names)}",
            "NO_SUCH_LAYER",
        )
        for index, name in enumerate(method.target_modules)
        if name not in names
    ]


def _added(
    architecture: Architecture, method: LoraMethod | QloraMethod | PrefixMethod | AdapterMethod
) -> int:
    match method:
        case LoraMethod():
            return _low_rank(architecture, method) + _lengths(architecture, method)
        case QloraMethod():
            return _low_rank(architecture, method)
        case PrefixMethod():
            return architecture.attention_count * _prefix(architecture, method)
        case AdapterMethod():
            return adapter_count(architecture, method) * _bottleneck(architecture, method)
        case _:
            assert_never(method)


def _low_rank(architecture: Architecture, method: LoraMethod | QloraMethod) -> int:
    """A (rank, inputs) and B (outputs, rank) for each layer."""
    return sum(
        layers.count * method.rank * (layers.input_size + layers.output_size)
        for layers in target_layers(architecture, method)
    )


def _lengths(architecture: Architecture, method: LoraMethod) -> int:
    """DoRA trains the length of each row of a layer's weight too."""
    if not method.dora:
        return 0
    layers = target_layers(architecture, method)
    return sum(one.count * one.output_size for one in layers)


def _prefix(architecture: Architecture, method: PrefixMethod) -> int:
    """Of one attention: keys and values, as they are or as the outputs of a network of two layers
    with their biases."""
    numbers = 2 * architecture.keys_width
    size = method.projection_size
    if size == 0:
        return method.prefix_length * numbers
    return method.prefix_length * size + (size + 1) * size + (size + 1) * numbers


def _bottleneck(architecture: Architecture, method: AdapterMethod) -> int:
    """Of one adapter: the way down and the way up, with their biases."""
    hidden, size = architecture.hidden_size, method.adapter_size
    return 2 * hidden * size + size + hidden


def adapter_count(architecture: Architecture, method: AdapterMethod) -> int:
    """The places where an adapter is."""
    behind_attention = method.placement is Placement.HOULSBY
    return architecture.block_count + (architecture.attention_count if behind_attention else 0)
