"""Forward passes that take the place of those of PEFT's LoRA layers and Llama-shaped blocks.

Each looks at what its module consists of at every call, and leaves to the module's own class what
it does not cover: adapters disabled, merged or several at a time, trained or quantized weights,
hooks, a layer that another method has wrapped.
"""

from types import MethodType
from typing import Any

from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaMLP,
    LlamaRMSNorm,
    eager_attention_forward,
)
from transformers.models.mistral.modeling_mistral import (
    MistralAttention,
    MistralMLP,
    MistralRMSNorm,
)
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2MLP, Qwen2RMSNorm

from services.trainer.engine.fast.linears import FrozenLinear, frozen_linear, lay_jointly
from services.trainer.engine.fast.norm import rms_norm
from services.trainer.engine.fast.products import joint_product, single_product
from services.trainer.engine.fast.rotary import split_and_rotate
from services.trainer.engine.fast.swiglu import swiglu

_ATTENTIONS = (LlamaAttention, MistralAttention, Qwen2Attention)
_MLPS = (LlamaMLP, MistralMLP, Qwen2MLP)
_NORMS = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm)
_SWISH = ("silu", "swish")

_attention_functions: Any = ALL_ATTENTION_FUNCTIONS


def fuse_lora(network: nn.Module) -> bool:
    """Returns whether there was a LoRA layer."""
    return _replace_forward(network, {LoraLinear: _lora_forward})


def fuse_blocks(network: nn.Module) -> bool:
    """Lays the weights of sibling projections together; returns whether there was a block."""
    for module in network.modules():
        siblings: Any = module
        if type(module) in _ATTENTIONS:
            lay_jointly([siblings.q_proj, siblings.k_proj, siblings.v_proj])
        elif type(module) in _MLPS:
            lay_jointly([siblings.gate_proj, siblings.up_proj])
    return _replace_forward(
        network,
        {
            **dict.fromkeys(_ATTENTIONS, _attention_forward),
            **dict.fromkeys(_MLPS, _mlp_forward),
            **dict.fromkeys(_NORMS, _norm_forward),
        },
    )


def _replace_forward(network: nn.Module, forwards: dict[type[nn.Module], Any]) -> bool:
    """A method of the instance hides that of its class, and survives a copy of the module."""
    modules = [module for module in network.modules() if type(module) in forwards]
    for module in modules:
        module.forward = MethodType(forwards[type(module)], module)
    return bool(modules)


def _stock(module: Any, *args: Any, **kwargs: Any) -> Any:
    return type(module).forward(module, *args, **kwargs)


def _lora_forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    linear = None if args or kwargs else frozen_linear(self)
    return _stock(self, x, *args, **kwargs) if linear is None else single_product(x, linear)


def _joint(x: Tensor, *modules: nn.Module) -> Tensor | None:
    linears: list[FrozenLinear] = []
    for module in modules:
        linear = frozen_linear(module)
        if linear is None:
            return None
        linears.append(linear)
    return joint_product(x, linears)


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.dtype != self.weight.dtype:
        return _stock(self, hidden_states)
    return rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _mlp_forward(self: Any, x: Tensor) -> Tensor:
    gate_and_up = None
    if self.config.hidden_act in _SWISH:
        gate_and_up = _joint(x, self.gate_proj, self.up_proj)
    return _stock(self, x) if gate_and_up is None else self.down_proj(swiglu(gate_and_up))


def _attention_forward(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    joint = None
    if position_embeddings is not None and position_embeddings[0].shape[-1] == self.head_dim:
        joint = _joint(hidden_states, self.q_proj, self.k_proj, self.v_proj)
    if joint is None or position_embeddings is None:
        return _stock(
            self,
            hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
    heads, key_heads = self.config.num_attention_heads, self.config.num_key_value_heads
    query, key, value = split_and_rotate(joint, *position_embeddings, heads, key_heads)
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, self.layer_idx)
    kwargs |= _sliding_window(self)
    attend = _attention_functions.get_interface(
        self.config._attn_implementation, eager_attention_forward
    )
    attended, weights = attend(
        self,
        query,
        key,
        value,
        attention_mask,
        dropout=self.attention_dropout if self.training else 0.0,
        scaling=self.scaling,
        **kwargs,
    )
    return self.o_proj(attended.reshape(*hidden_states.shape[:-1], -1)), weights


def _sliding_window(attention: Any) -> dict[str, Any]:
    """What the module's own class tells its attention function, beside what all tell."""
    if isinstance(attention, MistralAttention):
        return {"sliding_window": getattr(attention.config, "sliding_window", None)}
    if isinstance(attention, Qwen2Attention):
        return {"sliding_window": attention.sliding_window}
    return {}
