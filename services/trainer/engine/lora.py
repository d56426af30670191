"""LoRA through PEFT: attaches the adapter and names the layers it stands beside."""

from collections.abc import Sequence
from typing import Any

import peft
from torch import nn
from transformers.pytorch_utils import Conv1D

from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.job import LoraMethod

_peft: Any = peft  # untyped package


def attach_lora(base: nn.Module, method: LoraMethod) -> nn.Module:
    """Freezes `base` and puts adapters into it; their A is random, their B zero.

    Draws from torch's generator. Raises InvalidJob if a target module is not in the model.
    """
    available = linear_layer_names(base)
    unknown = sorted(set(method.target_modules) - set(available))
    if unknown:
        known = ", ".join(available)
        raise InvalidJob(
            *(Fault("method.target_modules", f"no layer {n!r}; there are {known}") for n in unknown)
        )
    config = _peft.LoraConfig(
        task_type=_peft.TaskType.CAUSAL_LM,
        r=method.rank,
        lora_alpha=_as_written(method.alpha),
        lora_dropout=method.dropout,
        target_modules=list(method.target_modules or available),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.modules()),
    )
    network: nn.Module = _peft.get_peft_model(base, config)
    return network


def _as_written(alpha: float) -> int | float:
    """16 rather than 16.0: some readers of adapter_config.json insist on an integer."""
    return int(alpha) if alpha.is_integer() else alpha


def linear_layer_names(model: nn.Module) -> Sequence[str]:
    """The last name parts of all linear layers in the model's blocks, sorted.

    The blocks are the largest module list, which leaves out embeddings, head and any smaller
    tower beside the decoder.
    """
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise InvalidJob(Fault("base_model_dir", "the model has no list of blocks to adapt"))
    blocks = max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))
    names = (n for n, m in blocks.named_modules() if isinstance(m, nn.Linear | Conv1D))
    return sorted({name.rsplit(".", 1)[-1] for name in names})
