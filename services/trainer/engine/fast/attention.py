"""Attention by plain matrix products, for rows so short that their weights may be kept.

torch's CPU kernel works in the manner of FlashAttention, which saves memory on long rows and costs
two to six times as much on short ones. Here the queries go through in blocks, and each block looks
at no more keys than it sees any of, which also spares a packed row most of its scores.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, autograd, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from services.trainer.engine.fast.arithmetic import apply

SHORT_ATTENTION = "short_attention"
"""The name under which transformers finds it."""

_LONGEST = 1024
"""Keys. Up to here it is 1.7 to 5 times as fast in bfloat16, and in float32 about as fast on short
rows and faster on long ones (`python -m benchmarks.engine_kernels attention`)."""
_BLOCK = 128
_TYPES = (torch.bfloat16, torch.float32)
_LEFT_TO_SDPA = ("position_bias", "softcap", "cache", "s_aux", "output_attentions")

_aten: Any = torch.ops.aten  # for the backward pass of softmax
_sdpa: Any = sdpa_attention_forward


def use_short_attention(model: Any) -> bool:
    """Has `model`, a PreTrainedModel that attends by SDPA on the CPU, attend by this where it is
    faster. Returns whether it could."""
    if model.device.type != "cpu":
        return False
    if model.config._attn_implementation not in ("sdpa", SHORT_ATTENTION):
        return False
    if getattr(model.config, "is_encoder_decoder", False):  # they add a bias to the scores
        return False
    AttentionInterface.register(SHORT_ATTENTION, short_attention)
    AttentionMaskInterface.register(SHORT_ATTENTION, sdpa_mask)
    model.set_attn_implementation(SHORT_ATTENTION)
    return True


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """What transformers asks of an attention function: queries (batch, heads, length, width) and
    keys and values (batch, key heads, key length, width) to (batch, length, heads, width).

    The mask is as for SDPA: True where a key is seen, or a number added to the score; without
    one, attention is causal unless the module or `is_causal` says otherwise.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    causal = causal and attention_mask is None and query.shape[2] > 1
    if (
        dropout > 0
        or key.shape[2] > _LONGEST
        or query.dtype not in _TYPES
        or (causal and key.shape[2] != query.shape[2])
        or any(kwargs.get(name) is not None for name in _LEFT_TO_SDPA)
    ):
        return _sdpa(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    blocks = _causal_blocks(query) if causal else _masked_blocks(query, key, attention_mask)
    attended: Tensor = apply(_Attention, query, key, value, blocks, scale)
    return attended.transpose(1, 2).contiguous(), None


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """`queries` look at `keys`; `bias` (…, queries, keys) is added to their scores."""

    queries: slice
    keys: slice
    bias: Tensor | None


def _query_blocks(length: int) -> list[slice]:
    """Of about the same size, rather than whole ones and a rest."""
    count = -(-length // _BLOCK)
    size = -(-length // count // 8) * 8
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _causal_blocks(query: Tensor) -> list[_Block]:
    future = _future(query.dtype)
    return [
        _Block(queries, slice(0, queries.stop), future[queries, : queries.stop])
        for queries in _query_blocks(query.shape[2])
    ]


def _masked_blocks(query: Tensor, key: Tensor, mask: Tensor | None) -> list[_Block]:
    every_key = slice(0, key.shape[2])
    if mask is not None:
        mask = mask.expand(*mask.shape[:-2], query.shape[2], key.shape[2])
    blocks: list[_Block] = []
    for queries in _query_blocks(query.shape[2]):
        if mask is None:
            blocks.append(_Block(queries, every_key, None))
        elif mask.dtype != torch.bool:
            blocks.append(_Block(queries, every_key, mask[..., queries, :].to(query.dtype)))
        else:
            keys = _range_seen(mask[..., queries, :])
            blocks.append(_Block(queries, keys, _bias(mask[..., queries, keys], query.dtype)))
    return blocks


def _range_seen(mask: Tensor) -> slice:
    """From the first to the last key that any query of the mask (…, queries, keys) sees."""
    seen = mask.flatten(0, -2).any(0).nonzero()
    return slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(0, mask.shape[-1])


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key is seen, hugely negative elsewhere."""
    bias = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype)
    return bias.masked_fill_(seen, 0)


@functools.cache
def _future(dtype: torch.dtype) -> Tensor:
    """(longest, longest): the bias of causal attention."""
    return _bias(torch.ones(_LONGEST, _LONGEST, dtype=torch.bool).tril(), dtype)


class _Attention(autograd.Function):
    """With P = softmax(s Q Kᵀ + bias): dV = Pᵀ G, dS = P ⊙ (G Vᵀ − rowsum(P ⊙ G Vᵀ)), dQ = s dS K,
    dK = s dSᵀ Q.

    Query heads that share a key head are stacked into longer queries, so neither keys nor values
    are repeated.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: Sequence[_Block],
        scale: float,
    ) -> Tensor:
        queries, keys, values = _by_group(query, key), key.flatten(0, 1), value.flatten(0, 1)
        parts: list[Tensor] = []
        kept: list[Tensor] = []
        for block in blocks:
            asked = queries[:, :, block.queries].flatten(1, 2)
            scores = torch.bmm(asked, keys[:, block.keys].transpose(1, 2))
            _scale_and_bias(scores.view(*query.shape[:2], -1, scores.shape[2]), block.bias, scale)
            weights = torch.softmax(scores, -1, out=scores)
            found = torch.bmm(weights, values[:, block.keys])
            parts.append(found.unflatten(1, (queries.shape[1], -1)))
            kept.append(weights)
        ctx.save_for_backward(queries, keys, values, *kept)
        ctx.blocks, ctx.scale = blocks, scale
        ctx.shapes = (query.shape, key.shape, value.shape)
        return _rejoined(parts).reshape(*query.shape[:3], value.shape[3])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        queries, keys, values, *kept = cast(tuple[Tensor, ...], ctx.saved_tensors)
        query_shape, key_shape, value_shape = ctx.shapes
        blocks: Sequence[_Block] = ctx.blocks
        d_attended = gradients[0].reshape(*queries.shape[:3], values.shape[2])
        for_queries: list[Tensor] = []
        for_keys: list[Tensor] = []
        for_values: list[Tensor] = []
        for block, weights in zip(blocks, kept, strict=True):
            asked = queries[:, :, block.queries].flatten(1, 2)
            d_found = d_attended[:, :, block.queries].flatten(1, 2)
            d_scores = torch.bmm(d_found, values[:, block.keys].transpose(1, 2))
            _aten._softmax_backward_data.out(
                d_scores, weights, -1, d_scores.dtype, grad_input=d_scores
            )
            d_asked = torch.bmm(d_scores, keys[:, block.keys])
            for_queries.append(d_asked.unflatten(1, (queries.shape[1], -1)))
            for_keys.append(torch.bmm(d_scores.transpose(1, 2), asked))
            for_values.append(torch.bmm(weights.transpose(1, 2), d_found))
        return (
            _rejoined(for_queries).mul_(ctx.scale).reshape(query_shape),
            _summed(for_keys, blocks, keys).mul_(ctx.scale).reshape(key_shape),
            _summed(for_values, blocks, values).reshape(value_shape),
            None,
            None,
        )


def _rejoined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _summed(parts: Sequence[Tensor], blocks: Sequence[_Block], whole: Tensor) -> Tensor:
    """The gradient of all keys or values, `whole`, from those of each block's."""
    if len(parts) == 1 and parts[0].shape == whole.shape:
        return parts[0]
    total = torch.zeros_like(whole)
    for part, block in zip(parts, blocks, strict=True):
        total[:, block.keys] += part
    return total


def _by_group(query: Tensor, key: Tensor) -> Tensor:
    """(batch · key heads, queries heads per key head, length, width)"""
    return query.reshape(-1, query.shape[1] // key.shape[1], *query.shape[2:])


def _scale_and_bias(scores: Tensor, bias: Tensor | None, scale: float) -> None:
    if bias is None:
        scores.mul_(scale)
    else:
        torch.add(bias, scores, alpha=scale, out=scores)
