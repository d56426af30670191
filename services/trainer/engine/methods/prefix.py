"""Prefix tuning: trained keys and values in front of every attention (arXiv:2101.00190)."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import peft
import torch
from pydantic import Field
from torch import nn

from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.layers import task_type
from services.trainer.engine.methods.base import TuningMethod
from services.tuners import PrefixConfig
from services.tuners.prefix_start import start_from_tokens

_peft: Any = peft  # untyped package


@dataclass(frozen=True)
class Prefix(TuningMethod):
    """Each attention sees `prefix_length` positions before the first token. A `projection_size`
    above 0 trains them through a network of that width, which steadies long prefixes; without
    one a causal model's prefix starts as that of random tokens."""

    kind: Literal["prefix"] = "prefix"
    prefix_length: Annotated[int, Field(ge=1, le=4096)] = 20
    projection_size: Annotated[int, Field(ge=0, le=16_384)] = 0

    def attach(self, base: Any) -> nn.Module:
        config = PrefixConfig(
            task_type=task_type(base),
            prefix_length=self.prefix_length,
            projection_size=self.projection_size,
        )
        try:
            network: nn.Module = _peft.get_peft_model(base, config)
        except ValueError as error:
            raise InvalidJob(Fault("method", str(error))) from error
        if self.projection_size == 0 and config.task_type == "CAUSAL_LM":
            words = base.get_input_embeddings().num_embeddings
            start_from_tokens(network, torch.randint(words, (self.prefix_length,)))
        return network
