"""SwiGLU (arXiv:2002.05202): silu(gate) ⊙ up."""

from typing import Any, cast

import torch
import torch.nn.functional as functional
from torch import Tensor, autograd

from services.trainer.engine.fast.arithmetic import apply

_aten: Any = torch.ops.aten  # for silu_backward, which has no name in Python


def swiglu(gate_and_up: Tensor) -> Tensor:
    """(…, 2 width), the gate before the other, to (…, width)."""
    return cast(Tensor, apply(_SwiGlu, gate_and_up))


class _SwiGlu(autograd.Function):
    """Writes both gradients into one tensor, as the product before it needs them."""

    @staticmethod
    def forward(ctx: Any, gate_and_up: Tensor) -> Tensor:
        gate, up = gate_and_up.chunk(2, dim=-1)
        activated = functional.silu(gate)
        ctx.save_for_backward(gate_and_up, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gate_and_up, activated = cast(tuple[Tensor, ...], ctx.saved_tensors)
        gate, up = gate_and_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_and_up)
        d_gate, d_up = result.chunk(2, dim=-1)
        torch.mul(gradients[0], activated, out=d_up)
        torch.mul(gradients[0], up, out=d_gate)
        _aten.silu_backward.grad_input(d_gate, gate, grad_input=d_gate)
        return result
