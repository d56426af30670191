"""QLoRA: LoRA on a base model whose linear layers are kept in 4 or 8 bits (arXiv:2305.14314)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bitsandbytes
import torch
import transformers
from torch import nn

from services.trainer.engine.base_model import load_base
from services.trainer.engine.methods.base import TuningMethod
from services.trainer.engine.methods.lora import (
    Alpha,
    Dropout,
    Names,
    Rank,
    as_written,
    attach_lora,
)

_bitsandbytes: Any = bitsandbytes  # untyped packages
_transformers: Any = transformers


@dataclass(frozen=True)
class Qlora(TuningMethod):
    """`bits` 4 is NF4, 8 is LLM.int8 (arXiv:2208.07339). `double_quantization` also quantises the
    scales of NF4. The rest is as in LoRA, whose result this has too."""

    kind: Literal["qlora"] = "qlora"
    rank: Rank = 8
    alpha: Alpha = 16.0
    dropout: Dropout = 0.1
    target_modules: Names = ()
    rslora: bool = False
    bits: Literal[4, 8] = 4
    double_quantization: bool = True

    def load(self, directory: Path, dtype: torch.dtype) -> Any:
        base = load_base(directory, dtype, quantization_config=self.quantization(dtype))
        _keep_gradients_right(base)
        return base

    def quantization(self, dtype: torch.dtype) -> Any:
        if self.bits == 8:
            return _transformers.BitsAndBytesConfig(load_in_8bit=True)
        return _transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.double_quantization,
            bnb_4bit_compute_dtype=dtype,
        )

    def attach(self, base: Any) -> nn.Module:
        return attach_lora(
            base,
            self.target_modules,
            r=self.rank,
            lora_alpha=as_written(self.alpha),
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
        )


def _keep_gradients_right(base: Any) -> None:
    """On CPUs with AVX512-BF16 an evaluation makes bitsandbytes repack 4-bit weights in place, for
    a product that has no gradient: what is trained afterwards goes astray without a word."""
    for module in base.modules():
        if isinstance(module, _bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
