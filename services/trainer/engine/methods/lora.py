"""LoRA: low-rank updates beside the frozen linear layers (arXiv:2106.09685)."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import peft
from pydantic import Field
from torch import nn

from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.layers import linear_layer_names, stores_transposed, task_type
from services.trainer.engine.methods.base import TuningMethod

_peft: Any = peft  # untyped package

Rank = Annotated[int, Field(ge=1, le=1024)]
Alpha = Annotated[float, Field(gt=0, le=4096)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Names = tuple[Annotated[str, Field(min_length=1)], ...]


@dataclass(frozen=True)
class Lora(TuningMethod):
    """The update of each layer is `alpha / rank · B A`, or with `rslora` `alpha / √rank · B A`
    (arXiv:2312.03732); A is random and B zero at first. `dora` trains the length of each column
    of the weights too (arXiv:2402.09353).

    No `target_modules` means every linear layer of the blocks; otherwise they are the last parts
    of layer names.
    """

    kind: Literal["lora"] = "lora"
    rank: Rank = 8
    alpha: Alpha = 16.0
    dropout: Dropout = 0.1
    target_modules: Names = ()
    rslora: bool = False
    dora: bool = False

    def attach(self, base: Any) -> nn.Module:
        return attach_lora(
            base,
            self.target_modules,
            r=self.rank,
            lora_alpha=as_written(self.alpha),
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            use_dora=self.dora,
        )


def attach_lora(base: Any, asked: Names, **settings: object) -> nn.Module:
    """Freezes `base` and puts PEFT's LoRA of these settings into it.

    Raises InvalidJob if a target module is not in the model.
    """
    available = linear_layer_names(base)
    unknown = sorted(set(asked) - set(available))
    if unknown:
        known = ", ".join(available)
        raise InvalidJob(
            *(Fault("method.target_modules", f"no layer {n!r}; there are {known}") for n in unknown)
        )
    config = _peft.LoraConfig(
        task_type=task_type(base),
        target_modules=list(asked or available),
        fan_in_fan_out=stores_transposed(base),
        **settings,
    )
    network: nn.Module = _peft.get_peft_model(base, config)
    return network


def as_written(alpha: float) -> int | float:
    """16 rather than 16.0: some readers of adapter_config.json insist on an integer."""
    return int(alpha) if alpha.is_integer() else alpha
