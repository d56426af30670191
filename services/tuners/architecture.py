"""Where in a transformer the parts are that a tuner wraps.

The blocks are found by structure, the layers in them by the names that the models of the
transformers library give them. Modules that a tuner has wrapped already are seen as they were.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

Named = tuple[str, nn.Module]
"""A module and its name within the model."""

_ATTENTION_OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense", "o")
_FEED_FORWARD_OUTPUTS = ("down_proj", "c_proj", "fc2", "dense_4h_to_h", "fc_out", "wo", "w2")


def attention_modules(model: nn.Module) -> list[Named]:
    """The modules that hold the projections of an attention, self and cross, of every block.

    Raises ValueError if a block has none.
    """
    found: list[Named] = []
    for name, block in _blocks(model):
        inside = _attentions(name, block)
        if not inside:
            raise ValueError(
                f"{name} ({type(block).__name__}) has no attention: looked for a module with "
                "'Attention' in its class's name that holds linear layers"
            )
        found += inside
    return found


def attention_outputs(model: nn.Module) -> list[str]:
    """The name of every attention's output projection. Raises ValueError unless each has one."""
    return [
        _only(_ATTENTION_OUTPUTS, _own_linears(name, module), f"{name} ({type(module).__name__})")
        for name, module in attention_modules(model)
    ]


def feed_forward_outputs(model: nn.Module) -> list[str]:
    """The name of the last projection of each block's feed-forward part.

    Raises ValueError unless each block has exactly one, as with a mixture of experts.
    """
    found: list[str] = []
    for name, block in _blocks(model):
        modules = list(_walk(name, block))
        if any("expert" in part.lower() for path, _ in modules for part in path.split(".")):
            raise ValueError(f"the feed-forward part of {name} is a mixture of experts")
        attentions = tuple(f"{path}." for path, _ in _attentions(name, block))
        linears = [
            path
            for path, module in modules
            if is_linear(module) and not path.startswith(attentions)
        ]
        found.append(_only(_FEED_FORWARD_OUTPUTS, linears, f"the feed-forward part of {name}"))
    return found


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that a tuner has wrapped, or the module itself."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def is_linear(module: nn.Module) -> bool:
    """Quantized layers are linear layers too."""
    return isinstance(module, nn.Linear | Conv1D)


def targets(model: nn.Module, names: Sequence[str], *, parts: int) -> list[str]:
    """The fewest ends of names by which PEFT finds exactly these modules: their last `parts`
    parts if that is so, else the whole names. Sorted."""
    ends = {_end(name, parts) for name in names}
    dotted = tuple(f".{end}" for end in ends)
    matched = {name for name, _ in _walk("", model) if name in ends or name.endswith(dotted)}
    return sorted(ends if matched == set(names) else names)


def _end(name: str, parts: int) -> str:
    kept = name.split(".")[-parts:]
    return ".".join(kept[1:] if kept[0].isdigit() else kept)


def _walk(name: str, module: nn.Module) -> Iterator[Named]:
    whole = unwrapped(module)
    yield name, whole
    for child_name, child in whole.named_children():
        yield from _walk(f"{name}.{child_name}" if name else child_name, child)


def _blocks(model: nn.Module) -> list[Named]:
    """The elements of the largest module list of each stack, of which an encoder–decoder has two.

    Raises ValueError if there is no module list.
    """
    found: list[Named] = []
    for prefix, stack in _stacks(model):
        lists = [
            (name, module)
            for name, module in _walk(prefix, stack)
            if isinstance(module, nn.ModuleList)
        ]
        if not lists:
            raise ValueError(f"{type(model).__name__} has no list of blocks (torch.nn.ModuleList)")
        name, blocks = max(lists, key=lambda named: sum(p.numel() for p in named[1].parameters()))
        found += [(f"{name}.{index}", block) for index, block in blocks.named_children()]
    return found


def _stacks(model: Any) -> list[Named]:
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return [("", model)]
    stacks = (model.get_encoder(), model.get_decoder())
    return [(name, module) for name, module in _walk("", model) if module in stacks]


def _attentions(name: str, block: nn.Module) -> list[Named]:
    return [
        (path, module)
        for path, module in _walk(name, block)
        if "attention" in type(module).__name__.lower() and _own_linears(path, module)
    ]


def _own_linears(name: str, module: nn.Module) -> list[str]:
    children = module.named_children()
    return [f"{name}.{child}" for child, layer in children if is_linear(unwrapped(layer))]


def _only(wanted: Sequence[str], linears: Sequence[str], place: str) -> str:
    found = [name for name in linears if name.rsplit(".", 1)[-1] in wanted]
    if len(found) != 1:
        there = ", ".join(name.rsplit(".", 1)[-1] for name in linears) or "none"
        raise ValueError(
            f"{place} has no single output projection: looked for one linear layer named "
            f"{', '.join(wanted)}; its linear layers are {there}"
        )
    return found[0]
