"""Prefix tuning (Li & Liang 2021, arXiv:2101.00190): trained keys and values in every attention.

PEFT's own goes through a pre-filled cache: that fails with gradient checkpointing, and examples
packed into one row see each other. Here each attention module gets its prefix within.
"""

from dataclasses import dataclass
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from services.tuners.architecture import attention_modules, targets, unwrapped
from services.tuners.attention_form import attention_form
from services.tuners.configuration import plain_lists
from services.tuners.prefix_layer import PrefixLayer
from services.tuners.registration import TunerType


@dataclass
class PrefixConfig(PeftConfig):
    """`prefix_length` is the number of positions put before the first token.

    A `projection_size` above 0 trains the prefix through a network of that width, which is saved
    with it. `target_modules` are the attention modules, in PEFT's way of naming; without them
    every one is found and entered here.
    """

    prefix_length: int = 20
    projection_size: int = 0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if a field is out of range."""
        super().__post_init__()
        self.peft_type = TunerType.KV_PREFIX
        if self.prefix_length < 1:
            raise ValueError(f"prefix_length is {self.prefix_length}, not 1 or more")
        if self.projection_size < 0:
            raise ValueError(f"projection_size is {self.projection_size}, not 0 or more")

    def to_dict(self) -> dict[str, Any]:
        """The fields in the order of their definition, with lists in a fixed order."""
        return plain_lists(super().to_dict())


class PrefixModel(BaseTuner):
    """Puts the prefixes of a PrefixConfig into a model. Raises ValueError where they do not fit."""

    prefix = "kv_prefix_"
    tuner_layer_cls = PrefixLayer

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        if peft_config.target_modules is None:
            names = [name for name, _ in attention_modules(self.model)]
            peft_config.target_modules = targets(self.model, names, parts=1)
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        for name, module in model.named_modules():
            if self._check_target_module_exists(peft_config, name):
                attention_form(name, unwrapped(module))

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target
        if not isinstance(layer, PrefixLayer):
            layer = PrefixLayer(target, adapter_name, attention_form(current_key, target))
            self._replace_module(parent, target_name, layer, target)
        layer.add(
            adapter_name,
            peft_config.prefix_length,
            peft_config.projection_size,
            inference_mode=peft_config.inference_mode,
        )

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        setattr(
            parent, child_name, new_module
        )  # PEFT would look for a weight, as of a linear layer

    def _check_merge_allowed(self) -> None:
        raise ValueError(
            "a prefix is no change of weights, so it cannot be merged into them; "
            "unload() removes it"
        )
