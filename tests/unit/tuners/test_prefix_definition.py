"""A prefix by its definition: attention computed query by query, by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from services.tuners import PrefixLayer
from tests.unit.tuners.conftest import inputs, logits, prefix_layers

FAMILIES = ["llama", "qwen3", "gpt2", "t5"]
CAUSAL = ["llama", "qwen3", "gpt2", "mistral", "gemma3", "phi3", "gpt_neox"]
LENGTH = 3


def prefix_of(layer: PrefixLayer) -> tuple[Tensor, Tensor]:
    """The keys and values (heads, length, width), as laid out in the file: a position a row, in
    it all keys, then all values, head by head."""
    rows = layer.kv_prefix_embedding["default"]
    halves = rows.chunk(2, dim=1)
    heads = layer.form.key_heads
    keys, values = (half.reshape(len(rows), heads, -1).transpose(0, 1) for half in halves)
    return keys, values


def attended(
    layer: PrefixLayer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    *,
    bias: Tensor | None = None,
    causal: bool = True,
) -> Tensor:
    """The definition, query by query. All are (batch, heads, length, width); `bias` is
    (heads, queries, keys); gives (batch, queries, heads · width)."""
    prefix_keys, prefix_values = prefix_of(layer)
    batch, heads, queries, _ = query.shape
    outputs = torch.zeros(batch, queries, heads, value.shape[-1])
    for b in range(batch):
        for h in range(heads):
            shared = h // (heads // key.shape[1])
            for i in range(queries):
                end = i + 1 if causal else key.shape[2]
                keys = torch.cat([prefix_keys[shared], key[b, shared, :end]])
                values = torch.cat([prefix_values[shared], value[b, shared, :end]])
                scores = keys @ query[b, h, i] * scale
                if bias is not None:
                    scores = scores + torch.cat([torch.zeros(LENGTH), bias[h, i, :end]])
                outputs[b, i, h] = scores.softmax(0) @ values
    return outputs.flatten(2)


def split(states: Tensor, width: int) -> Tensor:
    return states.unflatten(-1, (-1, width)).transpose(1, 2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@torch.no_grad()
def test_a_rotary_attention_sees_its_prefix_by_definition(
    tuned: Callable[..., Any], family: str, attention: str
) -> None:
    model = tuned("prefix", family, attention, prefix_length=LENGTH)
    layer = prefix_layers(model)[0]
    base: Any = layer.base_layer
    states = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(4))
    cos, sin = model.base_model.model.model.rotary_emb(states, torch.arange(5)[None])
    query, key, value = (
        split(project(states), base.head_dim) for project in (base.q_proj, base.k_proj, base.v_proj)
    )
    if family == "qwen3":
        query, key = base.q_norm(query), base.k_norm(key)
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    by_hand = attended(layer, query, key, value, 1 / math.sqrt(base.head_dim))
    output, _ = layer(hidden_states=states, position_embeddings=(cos, sin), attention_mask=None)
    torch.testing.assert_close(output, base.o_proj(by_hand), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_gpt2_sees_its_prefix_by_definition(tuned: Callable[..., Any], attention: str) -> None:
    layer = prefix_layers(tuned("prefix", "gpt2", attention, prefix_length=LENGTH))[1]
    base: Any = layer.base_layer
    states = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(4))
    query, key, value = (split(part, 8) for part in base.c_attn(states).chunk(3, dim=-1))
    by_hand = base.c_proj(attended(layer, query, key, value, 1 / math.sqrt(8)))
    output, _ = layer(states, past_key_values=None, attention_mask=None)
    torch.testing.assert_close(output, by_hand, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_t5_sees_its_prefixes_without_bias_by_definition(
    tuned: Callable[..., Any], attention: str
) -> None:
    model = tuned("prefix", "t5", attention, prefix_length=LENGTH)
    whole = model.base_model.model

    def attend(layer: Any, states: Tensor, memory: Tensor, **form: Any) -> Tensor:
        base = layer.base_layer
        query, key, value = (
            split(project(of), 6)
            for project, of in ((base.q, states), (base.k, memory), (base.v, memory))
        )
        return base.o(attended(layer, query, key, value, 1.0, **form))

    def through(stack: Any, token_ids: Tensor, memory: Tensor | None) -> Tensor:
        states = whole.shared(token_ids)
        length = token_ids.shape[1]
        first = stack.block[0].layer[0].SelfAttention.base_layer
        bias = first.compute_bias(length, length)[0]
        for block in stack.block:
            normed = block.layer[0].layer_norm(states)
            own = block.layer[0].SelfAttention
            states = states + attend(own, normed, normed, bias=bias, causal=memory is not None)
            if memory is not None:
                normed = block.layer[1].layer_norm(states)
                across = block.layer[1].EncDecAttention
                states = states + attend(across, normed, memory, causal=False)
            last = block.layer[-1]
            wide = last.DenseReluDense.wi(last.layer_norm(states)).relu()
            states = states + last.DenseReluDense.wo(wide)
        return stack.final_layer_norm(states)

    arguments = inputs("t5", length=6)
    encoded = through(whole.encoder, arguments["input_ids"], None)
    decoded = through(whole.decoder, arguments["decoder_input_ids"], encoded)
    expected = decoded * 32**-0.5 @ whole.lm_head.weight.T
    torch.testing.assert_close(logits(model, **arguments), expected, atol=1e-4, rtol=1e-4)
