"""Makes a loaded network faster in place."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from services.trainer.engine.fast.attention import use_short_attention
from services.trainer.engine.fast.layers import fuse_blocks, fuse_lora
from services.trainer.engine.fast.switches import Switches


def accelerate(
    network: nn.Module, switches: Switches, compute_dtype: torch.dtype
) -> tuple[str, ...]:
    """Turns on what `switches` allow and the network has parts for; returns the names of those.

    To be called once everything is attached and on its device. Parameters keep their names and
    shapes; frozen ones may change their type and where they lie. `fused_adamw`, `labeled_logits`
    and `in_place_loss` are for the caller to heed: optimizer and loss are no part of the network.
    So are those that make the batches, which are not named: they change no bit of a step on one.
    """
    gains = {
        "fused_adamw": switches.fused_adamw,
        "labeled_logits": switches.labeled_logits,
        "resident_bfloat16": switches.resident_bfloat16 and _round_frozen(network, compute_dtype),
        "fused_lora": switches.fused_lora and fuse_lora(network),
        "short_attention": switches.short_attention and _shorten_attention(network),
        "fused_layers": switches.fused_layers and fuse_blocks(network),
        "in_place_loss": switches.in_place_loss,
    }
    return tuple(name for name, gained in gains.items() if gained)


def _round_frozen(network: nn.Module, dtype: torch.dtype) -> bool:
    """Rounds the frozen float32 parameters to `dtype` for good, but for those that their model
    wants precise."""
    if dtype != torch.bfloat16:
        return False
    precise = {
        name
        for module in network.modules()
        for name in getattr(module, "_keep_in_fp32_modules_strict", None) or ()
    }
    rounded = False
    for name, parameter in network.named_parameters():
        if parameter.requires_grad or parameter.dtype not in (torch.float32, torch.bfloat16):
            continue
        if precise.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(dtype)
            rounded = True
    return rounded


def _shorten_attention(network: nn.Module) -> bool:
    model: Any = next((m for m in network.modules() if isinstance(m, PreTrainedModel)), None)
    return model is not None and use_short_attention(model)
