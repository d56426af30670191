"""Bottleneck adapters: small networks behind the blocks' sublayers (arXiv:1902.00751)."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import peft
from pydantic import Field
from torch import nn

from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.layers import task_type
from services.trainer.engine.methods.base import TuningMethod
from services.tuners import BottleneckConfig

_peft: Any = peft  # untyped package


@dataclass(frozen=True)
class Adapter(TuningMethod):
    """Each adapter computes `x + U f(D x)` with D down to `adapter_size` and U, zero at first,
    back up. "houlsby" puts one behind attention and feed-forward, "pfeiffer" (arXiv:2005.00247)
    behind the feed-forward alone."""

    kind: Literal["adapter"] = "adapter"
    adapter_size: Annotated[int, Field(ge=1, le=16_384)] = 64
    placement: Literal["houlsby", "pfeiffer"] = "pfeiffer"
    activation: Literal["relu", "silu", "gelu"] = "relu"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def attach(self, base: Any) -> nn.Module:
        config = BottleneckConfig(
            task_type=task_type(base),
            adapter_size=self.adapter_size,
            placement=self.placement,
            activation=self.activation,
            dropout=self.dropout,
        )
        try:
            network: nn.Module = _peft.get_peft_model(base, config)
        except ValueError as error:
            raise InvalidJob(Fault("method", str(error))) from error
        return network
