"""Adapters on top of a base network: PEFT's LoRA and the tuners of our own."""

import json
from pathlib import Path
from typing import Any

import peft
from peft import LoraConfig, PeftConfig, PeftModel, PeftType
from safetensors.torch import load_file
from torch import Tensor

from services.inference.worker.errors import AdapterUnusable, cause_without_place
from services.inference.worker.networks import sharing_weights
from services.tuners import TunerType

CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_KINDS = (PeftType.LORA, TunerType.BOTTLENECK, TunerType.KV_PREFIX)
_LORA_SETTINGS = frozenset(
    {
        *("task_type", "peft_type", "auto_mapping", "peft_version", "inference_mode"),
        *("base_model_name_or_path", "revision", "target_modules", "exclude_modules"),
        *("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "fan_in_fan_out"),
    }
)
"""What a LoRA adapter may set. Much of the rest reaches into the base: trained biases, initial
values that are taken out of its weights, blocks that stand twice."""

_peft: Any = peft  # untyped package


def with_adapter(base: Any, directory: Path) -> Any:
    """A network that has the weights of `base` and the adapter in `directory`. `base` stays as it
    is, so any number of adapters of all kinds can stand beside it.

    Raises AdapterUnusable.
    """
    try:
        return _attached(base, directory)
    except AdapterUnusable:
        raise
    except Exception as error:  # PEFT and safetensors raise nothing more specific
        raise AdapterUnusable(cause_without_place(error, directory)) from error


def _attached(base: Any, directory: Path) -> Any:
    config = _config(directory)
    tensors = load_file(directory / _WEIGHTS)
    adapted = PeftModel(sharing_weights(base), config)
    own: dict[str, Tensor] = _peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    _require_same_shapes(tensors, own)
    _peft.set_peft_model_state_dict(adapted, tensors)
    return adapted.get_base_model().eval()  # PEFT's layers are inside


def _config(directory: Path) -> PeftConfig:
    for required in (CONFIG, _WEIGHTS):
        if not (directory / required).is_file():  # PEFT would ask the hub, or take a pickle
            raise AdapterUnusable(f"it has no {required}")
    kind = json.loads((directory / CONFIG).read_bytes())["peft_type"]
    if kind not in _KINDS:
        raise AdapterUnusable(f"it is of the kind {kind}, not {', '.join(_KINDS)}")
    config = PeftConfig.from_pretrained(str(directory))
    if isinstance(config, LoraConfig):
        _require_plain(config)
    config.inference_mode = True
    return config


def _require_plain(config: LoraConfig) -> None:
    usual = LoraConfig().to_dict()
    for name, value in config.to_dict().items():
        if name not in _LORA_SETTINGS and value != usual[name]:
            raise AdapterUnusable(f"its {name} is {value!r}, which is not served")


def _require_same_shapes(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> None:
    """A tensor too many could be one of the base's own, which all models share."""
    if missing := ours.keys() - theirs.keys():
        raise AdapterUnusable(f"it has no {min(missing)}")
    if foreign := theirs.keys() - ours.keys():
        raise AdapterUnusable(f"the base has no place for its {min(foreign)}")
    for name, tensor in theirs.items():
        if tensor.shape != ours[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(ours[name].shape)}"
            raise AdapterUnusable(f"the shape of its {name} is {shapes}")
