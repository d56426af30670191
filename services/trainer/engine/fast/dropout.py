"""Dropout by masking bits: an element is kept (all ones) or becomes zero.

torch draws a Bernoulli number for each element, which on a CPU costs more than the products of a
LoRA layer. Here a 64-bit draw of torch's global generator serves four bfloat16 or two float32
elements, and the mask is applied by one bitwise operation.
"""

import torch
from torch import Tensor

_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
_DRAW_BYTES = 8


def draws_masks_for(dtype: torch.dtype) -> bool:
    return dtype in _BITS


def keep_mask(like: Tensor, probability: float) -> Tensor:
    """A mask of the shape of `like`; each element is zero with `probability` (0 < p < 1), to
    within 2⁻¹⁶ for 16-bit types and 2⁻³² for float32."""
    bits = _BITS[like.dtype]
    per_draw = _DRAW_BYTES // bits.itemsize
    count = -(-like.numel() // per_draw)
    draws = torch.empty(count, dtype=torch.int64, device=like.device)
    draws.random_(-(2**63), None)  # all 64 bits
    drawn = draws.view(bits)[: like.numel()].view(like.shape)
    info = torch.iinfo(bits)
    threshold = info.min + round(probability * 2**info.bits)
    threshold = min(max(threshold, info.min + 1), info.max)
    # 0 below the threshold, 1 from it on; negated, 1 has all bits set.
    return drawn.clamp_(threshold - 1, threshold).sub_(threshold - 1).neg_()


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where the mask keeps them, else 0, in a new tensor. They are not scaled up."""
    return values.view(mask.dtype).bitwise_and(mask).view(values.dtype)
