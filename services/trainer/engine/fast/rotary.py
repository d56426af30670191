"""Rotary position embedding (arXiv:2104.09864), in the layout of Llama: dimension i turns with
dimension i + half."""

from typing import Any, cast

import torch
from torch import Tensor, autograd

from services.trainer.engine.fast.arithmetic import apply


def split_and_rotate(
    joint: Tensor, cosines: Tensor, sines: Tensor, heads: int, key_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (batch, heads, length, width), keys and values (batch, key_heads, length, width).

    `joint` is (batch, length, (heads + 2 key_heads) width): queries, keys and values side by side.
    Queries and keys are turned by the angles whose `cosines` and `sines` are (batch or 1, length,
    width). The results are contiguous.
    """
    dtype = joint.dtype
    return cast(
        tuple[Tensor, Tensor, Tensor],
        apply(_SplitAndRotate, joint, cosines.to(dtype), sines.to(dtype), heads, key_heads),
    )


class _SplitAndRotate(autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, joint: Tensor, cosines: Tensor, sines: Tensor, heads: int, key_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
        queries, keys, values = _by_head(joint, heads, key_heads)
        ctx.save_for_backward(cosines, sines)
        ctx.heads, ctx.key_heads = heads, key_heads
        turned_queries = torch.empty_like(queries, memory_format=torch.contiguous_format)
        turned_keys = torch.empty_like(keys, memory_format=torch.contiguous_format)
        _rotate(queries, cosines, sines, turned_queries)
        _rotate(keys, cosines, sines, turned_keys)
        return turned_queries, turned_keys, values.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        cosines, sines = cast(tuple[Tensor, Tensor], ctx.saved_tensors)
        d_queries, d_keys, d_values = gradients
        batch, _, length, width = d_queries.shape
        joint = d_queries.new_empty(batch, length, (ctx.heads + 2 * ctx.key_heads) * width)
        queries, keys, values = _by_head(joint, ctx.heads, ctx.key_heads)
        backwards = sines.neg()
        _rotate(d_queries, cosines, backwards, queries)
        _rotate(d_keys, cosines, backwards, keys)
        values.copy_(d_values)
        return joint, None, None, None, None


def _by_head(joint: Tensor, heads: int, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views (batch, heads, length, width)."""
    everything = joint.unflatten(-1, (heads + 2 * key_heads, -1)).transpose(1, 2)
    queries, keys, values = everything.split([heads, key_heads, key_heads], dim=1)
    return queries, keys, values


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor, out: Tensor) -> None:
    half = x.shape[-1] // 2
    torch.mul(x, cosines, out=out)
    out[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sines[..., half:])
