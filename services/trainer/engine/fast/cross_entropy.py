"""Cross-entropy whose gradient takes the place of the logits.

The gradient of the summed loss is softmax(logits) − one-hot(target), of the size of the logits,
often a run's largest tensor. It is computed in the forward pass, a few rows at a time in float32.
"""

from typing import Any, cast

import torch
from torch import Tensor, autograd

from services.trainer.engine.fast.arithmetic import apply

_CPU_ELEMENTS, _GPU_ELEMENTS = 1 << 19, 1 << 25
"""How many logits are worked on at a time. On a CPU they are to stay in a core's cache."""


def summed_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Nats, summed over rows, in float32. `logits` is (rows, vocabulary), `targets` (rows,); a row
    whose target is negative does not count, others as much as `weights` (rows,) say, else 1.

    If gradients are wanted the logits are overwritten: nothing else may read them, before or in
    the backward pass, which can run once. (Autograd raises RuntimeError if that is not kept to.)
    """
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return _losses_of(logits.detach(), targets, weights, into=None)
    return cast(Tensor, apply(_CrossEntropy, logits, targets, weights))


def _losses_of(
    logits: Tensor, targets: Tensor, weights: Tensor | None, into: Tensor | None
) -> Tensor:
    """The summed loss; `into`, which may be `logits` itself, takes its gradient."""
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    at_once = _CPU_ELEMENTS if logits.device.type == "cpu" else _GPU_ELEMENTS
    rows = max(1, at_once // logits.shape[1])
    for start in range(0, logits.shape[0], rows):
        part = logits[start : start + rows].to(torch.float32, copy=True)
        target = targets[start : start + rows].unsqueeze(1)
        counts = (target >= 0).to(torch.float32)
        if weights is not None:
            counts *= weights[start : start + rows].unsqueeze(1)
        target = target.clamp(min=0)
        largest = part.amax(1, keepdim=True)
        at_target = part.gather(1, target)
        torch.softmax(part, 1, out=part)
        # log Σ exp(logits): the largest logit less the log of the largest probability.
        log_sum = largest - part.amax(1, keepdim=True).log_()
        total += ((log_sum - at_target) * counts).sum()
        if into is not None:
            part.scatter_add_(1, target, part.new_full((), -1.0).expand_as(target))
            torch.mul(part, counts, out=into[start : start + rows])
    return total


class _CrossEntropy(autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        total = _losses_of(logits, targets, weights, into=logits)
        ctx.save_for_backward(logits)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = cast(tuple[Tensor], ctx.saved_tensors)
        return gradient.mul_(gradients[0]), None, None
