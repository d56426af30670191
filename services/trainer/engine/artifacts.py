"""The result of a run: an adapter directory that PEFT loads, the same bytes for the same run."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
from safetensors import torch as safetensors
from torch import Tensor, nn

from services.trainer.engine.durable import write_directory
from services.trainer.engine.events import Artifact

_peft: Any = peft  # untyped package


def write_adapter(network: nn.Module, directory: Path) -> tuple[Artifact, ...]:
    """Writes adapter_config.json and adapter_model.safetensors, atomically."""
    files = {
        "adapter_config.json": _config_json(network).encode(),
        "adapter_model.safetensors": safetensors.save(
            dict(_adapter_tensors(network)), metadata={"format": "pt"}
        ),
    }
    write_directory(directory, files)
    return tuple(
        Artifact(name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    )


def _adapter_tensors(network: nn.Module) -> Mapping[str, Tensor]:
    state: dict[str, Tensor] = _peft.get_peft_model_state_dict(network, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _config_json(network: Any) -> str:
    """PEFT's own form of the configuration, with its sets in order and no path of this machine."""
    config = network.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": "", "inference_mode": True}
    return json.dumps(config, indent=2, sort_keys=True, default=sorted) + "\n"
