"""What a linear layer consists of, with or without LoRA beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from services.trainer.engine.fast.dropout import draws_masks_for


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """`down` (rank, inputs) and `up` (outputs, rank) of an active adapter; `dropout` is 0 unless
    the layer is training."""

    down: Tensor
    up: Tensor
    scaling: float
    dropout: float


@dataclass(frozen=True, slots=True, eq=False)
class FrozenLinear:
    """`weight` (outputs, inputs) and `bias` (outputs,) are not trained."""

    weight: Tensor
    bias: Tensor | None
    low_rank: LowRank | None


def frozen_linear(module: nn.Module) -> FrozenLinear | None:
    """What `module` computes now, or nothing if that is more than a frozen linear layer and at
    most one plain LoRA adapter beside it."""
    if type(module) is not LoraLinear:
        return _plain(module, None)
    layer: Any = module
    if _is_hooked(module) or layer.fan_in_fan_out != isinstance(layer.base_layer, Conv1D):
        return None
    if layer.disable_adapters and layer.merged:
        return None  # PEFT takes the adapter out of the weight at its next call
    if layer.disable_adapters or layer.merged:
        return _plain(layer.base_layer, None)
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if not active:
        return _plain(layer.base_layer, None)
    if len(active) > 1 or not _is_plain_lora(layer, active[0]):
        return None
    return _plain(layer.base_layer, _low_rank(layer, active[0]))


def joint_weight(weights: Sequence[Tensor]) -> Tensor | None:
    """The weights below one another, if they lie so in memory."""
    first = weights[0]
    storage = first.untyped_storage()
    rows, end = 0, first.storage_offset()
    for weight in weights:
        if weight.untyped_storage() is not storage or weight.storage_offset() != end:
            return None
        if weight.dtype != first.dtype or not weight.is_contiguous():
            return None
        rows += weight.shape[0]
        end += weight.numel()
    return first.as_strided((rows, first.shape[1]), (first.shape[1], 1))


def lay_jointly(modules: Sequence[nn.Module]) -> bool:
    """Moves the weights of frozen linear layers into one piece of memory, one below the other.

    Returns whether it could: all must be frozen, of the same type and the same width of input.
    """
    linears = [frozen_linear(module) for module in modules]
    weights = [linear.weight for linear in linears if linear is not None]
    if len(weights) < len(modules) or any(not isinstance(w, nn.Parameter) for w in weights):
        return False
    if len({(w.dtype, w.device, w.shape[1]) for w in weights}) > 1:
        return False
    if joint_weight(weights) is not None:
        return True
    joint = torch.cat([weight.detach() for weight in weights])
    parts = joint.split([weight.shape[0] for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.data = part
    return True


def _plain(module: Any, low_rank: LowRank | None) -> FrozenLinear | None:
    if type(module) not in (nn.Linear, Conv1D) or _is_hooked(module):
        return None
    weight: Tensor = module.weight
    bias: Tensor | None = module.bias
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return None
    if not draws_masks_for(weight.dtype):
        return None
    stored = weight if isinstance(module, nn.Linear) else weight.t()
    return FrozenLinear(stored, bias, low_rank)


def _is_plain_lora(layer: Any, name: str) -> bool:
    dropout = layer.lora_dropout[name]
    parts = (layer.lora_A[name], layer.lora_B[name], dropout)
    return (
        name not in layer.lora_variant
        and not layer.lora_bias[name]
        and type(dropout) in (nn.Identity, nn.Dropout)
        and not any(_is_hooked(part) for part in parts)
    )


def _low_rank(layer: Any, name: str) -> LowRank:
    dropout: Any = layer.lora_dropout[name]
    drops = type(dropout) is nn.Dropout and dropout.training
    return LowRank(
        down=layer.lora_A[name].weight,
        up=layer.lora_B[name].weight,
        scaling=layer.scaling[name],
        dropout=float(dropout.p) if drops else 0.0,
    )


def _is_hooked(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
