"""What a base model is made of, as far as methods need to know."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from services.trainer.engine.errors import Fault, InvalidJob


def linear_layer_names(model: nn.Module) -> Sequence[str]:
    """The last name parts of all linear layers in the model's blocks, sorted.

    The blocks are the largest module list of each stack, which leaves out embeddings, head and any
    smaller tower beside them; an encoder–decoder has two stacks.
    """
    return sorted({name for blocks in block_lists(model) for name in _linear_names(blocks)})


def block_lists(model: nn.Module) -> list[nn.ModuleList]:
    """The blocks of each stack. Raises InvalidJob if there are none."""
    stacks = [model]
    if _is_encoder_decoder(model):
        stacks = [part for part in (_part(model, "encoder"), _part(model, "decoder")) if part]
    return [_blocks(stack) for stack in stacks]


def task_type(model: Any) -> str:
    """PEFT's word for what the model does."""
    return "SEQ_2_SEQ_LM" if _is_encoder_decoder(model) else "CAUSAL_LM"


def stores_transposed(model: nn.Module) -> bool:
    """Whether linear layers keep their weights as (in, out), as GPT-2's do. (A quantised layer
    remembers what it was.)"""
    kinds = (getattr(module, "source_cls", type(module)) for module in model.modules())
    return any(issubclass(kind, Conv1D) for kind in kinds)


def _is_encoder_decoder(model: Any) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _part(model: Any, name: str) -> nn.Module | None:
    return getattr(model, f"get_{name}")() if hasattr(model, f"get_{name}") else None


def _blocks(stack: nn.Module) -> nn.ModuleList:
    lists = [m for m in stack.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise InvalidJob(Fault("base_model_dir", "the model has no list of blocks to adapt"))
    return max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))


def _linear_names(blocks: nn.ModuleList) -> set[str]:
    return {
        name.rsplit(".", 1)[-1]
        for name, module in blocks.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
