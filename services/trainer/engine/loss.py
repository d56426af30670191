"""The loss over the labeled tokens of a batch.

The language-model head, often the largest product of all, runs only where there is a label.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch.nn.functional as functional
from torch import Tensor, nn

from services.trainer.engine.batches import IGNORED, Batch


def label_logits(network: nn.Module, head: nn.Module, batch: Batch) -> Tensor:
    """The logits (rows, vocabulary) that predict `batch.targets`.

    `head` is the module inside `network` that turns hidden states into logits; what a model does
    to its logits afterwards (scaling, soft caps) still happens.
    """
    with _head_only_at(head, batch.positions):
        output = network(**batch.inputs, use_cache=False)
    logits: Tensor = output.logits
    return logits.squeeze(0)


def summed_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Nats, summed over the labeled tokens, each as often as its weight says; in float32."""
    if weights is None:
        return functional.cross_entropy(
            logits.float(), targets, ignore_index=IGNORED, reduction="sum"
        )
    losses = functional.cross_entropy(
        logits.float(), targets, ignore_index=IGNORED, reduction="none"
    )
    return (losses * weights).sum()  # not a product of vectors, which autocast would round


def selected_logits(network: nn.Module, _head: nn.Module, batch: Batch) -> Tensor:
    """What `label_logits` gives, from a head that runs at every token, as it usually does."""
    logits: Tensor = network(**batch.inputs, use_cache=False).logits
    return logits.flatten(0, 1).index_select(0, batch.positions)


@contextmanager
def _head_only_at(head: nn.Module, positions: Tensor) -> Generator[None]:
    def select(_head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = inputs
        return (hidden.flatten(0, 1).index_select(0, positions).unsqueeze(0), *rest)

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
