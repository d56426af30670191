"""Bottleneck adapters: small networks behind a block's sublayers.

Houlsby et al. 2019 (arXiv:1902.00751) put one behind the output projections of attention and of
the feed-forward part, before each is added to the residual stream; Pfeiffer et al. 2020
(arXiv:2005.00247) one behind the feed-forward part alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from services.tuners.architecture import (
    attention_outputs,
    feed_forward_outputs,
    is_linear,
    targets,
    unwrapped,
)
from services.tuners.configuration import plain_lists
from services.tuners.registration import TunerType

Placement = Literal["houlsby", "pfeiffer"]
Activation = Literal["relu", "silu", "gelu"]

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
}


@dataclass
class BottleneckConfig(PeftConfig):
    """`adapter_size` is the width of the narrow layer; `dropout` is applied to it.

    `target_modules` are the linear layers behind which an adapter comes, in PEFT's way of naming;
    without them they follow from `placement` and the model, and are entered here.
    """

    adapter_size: int = 64
    placement: Placement = "pfeiffer"
    activation: Activation = "relu"
    dropout: float = 0.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if a field is out of range."""
        super().__post_init__()
        self.peft_type = TunerType.BOTTLENECK
        if self.adapter_size < 1:
            raise ValueError(f"adapter_size is {self.adapter_size}, not 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, not in [0, 1)")
        _check_word("placement", self.placement, get_args(Placement))
        _check_word("activation", self.activation, get_args(Activation))

    def to_dict(self) -> dict[str, Any]:
        """The fields in the order of their definition, with lists in a fixed order."""
        return plain_lists(super().to_dict())


def _check_word(field: str, word: str, allowed: tuple[str, ...]) -> None:
    if word not in allowed:
        raise ValueError(f"{field} is {word!r}, not one of {', '.join(allowed)}")


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear layer and its adapters. With y (…, width) the layer's output, each active adapter
    in turn makes of it `y + U f(D y + d) + u`, D (size, width) and U (width, size).

    At first U, u and d are zero, so nothing is changed (as in arXiv:2110.04366), and D is drawn
    as for any linear layer. They are float32 whatever the type of the layer.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout", "activation")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.activation: dict[str, Callable[[Tensor], Tensor]] = {}
        self._active_adapter = adapter_name
        self.add(adapter_name, config)

    def add(self, name: str, config: BottleneckConfig) -> None:
        """Adds an adapter beside those that are there."""
        base: Any = self.base_layer
        width: int = base.nf if isinstance(base, Conv1D) else base.out_features
        options: dict[str, Any] = {"device": base.weight.device, "dtype": torch.float32}
        down = nn.Linear(width, config.adapter_size, **options)
        up = nn.Linear(config.adapter_size, width, **options)
        for zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        self.bottleneck_down[name], self.bottleneck_up[name] = down, up
        self.bottleneck_dropout[name] = nn.Dropout(config.dropout)
        self.activation[name] = _FUNCTIONS[config.activation]
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return y
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                y = y + self._change(name, y)
        return y

    def _change(self, name: str, y: Tensor) -> Tensor:
        down, up = self.bottleneck_down[name], self.bottleneck_up[name]
        narrow = self.activation[name](down(y.to(torch.float32)))
        change: Tensor = up(self.bottleneck_dropout[name](narrow))
        return change.to(y.dtype)


class BottleneckModel(BaseTuner):
    """Puts the adapters of a BottleneckConfig into a model. Raises ValueError where they do not
    fit."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        if peft_config.target_modules is None:
            names = feed_forward_outputs(self.model)
            if peft_config.placement == "houlsby":
                names = attention_outputs(self.model) + names
            peft_config.target_modules = targets(self.model, names, parts=2)
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        for name, module in model.named_modules():
            layer = unwrapped(module)
            if self._check_target_module_exists(peft_config, name) and not is_linear(layer):
                raise ValueError(
                    f"{name} is a {type(layer).__name__}: a bottleneck adapter comes behind a "
                    "linear layer"
                )

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
        if isinstance(target, BottleneckLayer):
            target.add(adapter_name, peft_config)
        else:
            layer = BottleneckLayer(target, adapter_name, peft_config)
            self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise ValueError(
            "a bottleneck adapter is not linear, so it cannot be merged into the weights; "
            "unload() removes it"
        )
