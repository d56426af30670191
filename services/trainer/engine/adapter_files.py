"""An adapter's directory as PEFT loads it, the same bytes for the same weights."""

import json
from pathlib import Path
from typing import Any

import peft
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, nn

from services.trainer.engine.errors import Fault, InvalidJob

_peft: Any = peft  # untyped package


def write(network: nn.Module, directory: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors."""
    (directory / "adapter_config.json").write_text(config_json(network))
    safetensors.save_file(
        _tensors(network), directory / "adapter_model.safetensors", metadata={"format": "pt"}
    )


def read(network: Any, directory: Path) -> None:
    """Puts the adapter in `directory` in place of the network's own.

    Raises InvalidJob if it is of another kind or shape.
    """
    path = directory / "adapter_model.safetensors"
    try:
        theirs = json.loads((directory / "adapter_config.json").read_bytes())["peft_type"]
        tensors = safetensors.load_file(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InvalidJob(Fault("start_from", f"holds no adapter: {error}")) from error
    ours = json.loads(config_json(network))["peft_type"]
    mine = _tensors(network)
    if theirs != ours or shapes(tensors) != shapes(mine):
        raise InvalidJob(Fault("start_from", "is an adapter of another method or shape"))
    _peft.set_peft_model_state_dict(network, tensors)


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Those of the tensors that `write` writes; the network need not hold any numbers."""
    return shapes(_state(network))


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    state = _state(network)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _state(network: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = _peft.get_peft_model_state_dict(network, save_embedding_layers=False)
    return state


def config_json(network: Any) -> str:
    """PEFT's own form of the configuration, with its sets in order and no path of this machine."""
    config = network.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": "", "inference_mode": True}
    return json.dumps(config, indent=2, sort_keys=True, default=sorted) + "\n"
