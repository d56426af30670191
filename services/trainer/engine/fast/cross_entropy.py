"""Cross-entropy whose gradient takes the place of the logits.

The gradient of the summed loss is softmax(logits) − one-hot(target), of the size of the logits,
often a run's largest tensor. It is computed in the forward pass, a few rows at a time in float32.
"""

from typing import Any, cast

import torch
from torch import Tensor, autograd

from services.trainer.engine.fast.arithmetic import apply, product_dtype

_CPU_ELEMENTS, _GPU_ELEMENTS = 1 << 19, 1 << 25
"""How many logits are worked on at a time. On a CPU they are to stay in a core's cache."""


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats, summed over rows, in float32. `logits` is (labels, vocabulary), `targets` (labels,).

    If gradients are wanted the logits are overwritten: nothing else may read them, before or in
    the backward pass, which can run once. (Autograd raises RuntimeError if that is not kept to.)
    """
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return _losses_of(logits.detach(), targets, into=None)
    return cast(Tensor, apply(_CrossEntropy, logits, targets))


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int = 256
) -> Tensor:
    """Nats, summed over rows, in float32, of the logits hidden · weightᵀ, of which never more than
    `chunk_rows` exist.

    `hidden` is (labels, width), `weight` (vocabulary, width), `targets` (labels,). The products
    are computed in the type of `weight` unless autocast says otherwise.
    """
    dtype = product_dtype(weight)
    return cast(
        Tensor,
        apply(_ChunkedCrossEntropy, hidden.to(dtype), weight.to(dtype), targets, chunk_rows),
    )


def _losses_of(logits: Tensor, targets: Tensor, into: Tensor | None) -> Tensor:
    """The summed loss; `into`, which may be `logits` itself, takes its gradient."""
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    at_once = _CPU_ELEMENTS if logits.device.type == "cpu" else _GPU_ELEMENTS
    rows = max(1, at_once // logits.shape[1])
    for start in range(0, logits.shape[0], rows):
        part = logits[start : start + rows].to(torch.float32, copy=True)
        target = targets[start : start + rows].unsqueeze(1)
        largest = part.amax(1, keepdim=True)
        at_target = part.gather(1, target)
        torch.softmax(part, 1, out=part)
        # log Σ exp(logits): the largest logit less the log of the largest probability.
        log_sum = largest - part.amax(1, keepdim=True).log_()
        total += (log_sum - at_target).sum()
        if into is not None:
            part.scatter_add_(1, target, part.new_full((), -1.0).expand_as(target))
            into[start : start + rows] = part
    return total


class _CrossEntropy(autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        total = _losses_of(logits, targets, into=logits)
        ctx.save_for_backward(logits)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = cast(tuple[Tensor], ctx.saved_tensors)
        return gradient.mul_(gradients[0]), None


class _ChunkedCrossEntropy(autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int
    ) -> Tensor:
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        d_hidden = torch.empty_like(hidden) if for_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], chunk_rows):
            chunk = slice(start, start + chunk_rows)
            logits = hidden[chunk] @ weight.t()
            differentiate = for_hidden or for_weight
            total += _losses_of(logits, targets[chunk], into=logits if differentiate else None)
            if d_hidden is not None:
                torch.mm(logits, weight, out=d_hidden[chunk])
            if d_weight is not None:
                d_weight += logits.t() @ hidden[chunk]
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        d_hidden, d_weight = cast(tuple[Tensor | None, Tensor | None], ctx.saved_tensors)
        return (
            None if d_hidden is None else d_hidden.mul_(gradients[0]),
            None if d_weight is None else d_weight.mul_(gradients[0]).to(ctx.weight_dtype),
            None,
            None,
        )
