"""RMSNorm (arXiv:1910.07467): y = w ⊙ x / √(mean(x²) + ε)."""

from typing import Any, cast

import torch
from torch import Tensor, autograd

from services.trainer.engine.fast.arithmetic import apply


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Over the last dimension of x (…, width), which has the type of `weight` (width,)."""
    return cast(Tensor, apply(_RmsNorm, x, weight, epsilon))


class _RmsNorm(autograd.Function):
    """With n = x / r and r the root: dx = (g ⊙ w − n · mean(g ⊙ w ⊙ n)) / r, dw = Σ g ⊙ n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        mean_square = length.square_().div_(x.shape[-1])
        inverse = mean_square.add_(epsilon).rsqrt_().to(x.dtype)
        normal = x * inverse
        ctx.save_for_backward(normal, inverse, weight)
        return normal * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        normal, inverse, weight = cast(tuple[Tensor, ...], ctx.saved_tensors)
        dy = gradients[0]
        dx = dw = None
        if ctx.needs_input_grad[0]:
            weighted = dy * weight
            along = torch.linalg.vecdot(weighted, normal).unsqueeze(-1).div_(normal.shape[-1])
            dx = torch.addcmul(weighted, normal, along, value=-1, out=weighted).mul_(inverse)
        if ctx.needs_input_grad[1]:
            products = (dy * normal).flatten(0, -2)
            dw = products.sum(0, dtype=torch.float32).to(weight.dtype)
        return dx, dw, None
