"""The loss over the labeled tokens of a batch.

A batch is padded at the right and has no attention mask: attention is causal, so no token sees
the padding behind it, and no padding carries a label. The language-model head, often the
largest product of all, runs only where there is a label.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from services.trainer.engine.examples import Example

_PAD_TO_MULTIPLE = 8


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """`token_ids` is (examples, length). The labeled tokens, in reading order, are `targets`
    (labels,), and `positions` (labels,) are where in the flattened batch each is predicted: at
    the token before it. `tokens` counts what is not padding."""

    token_ids: Tensor
    positions: Tensor
    targets: Tensor
    tokens: int


def collate(examples: Sequence[Example], device: torch.device) -> Batch:
    longest = max(map(len, examples))
    length = -(-longest // _PAD_TO_MULTIPLE) * _PAD_TO_MULTIPLE
    rows: list[list[int]] = []
    positions: list[int] = []
    targets: list[int] = []
    for row, example in enumerate(examples):
        rows.append([*example.token_ids, *[0] * (length - len(example))])
        for i in range(1, len(example)):
            if example.labeled[i]:
                positions.append(row * length + i - 1)
                targets.append(example.token_ids[i])
    return Batch(
        token_ids=torch.tensor(rows, device=device),
        positions=torch.tensor(positions, device=device),
        targets=torch.tensor(targets, device=device),
        tokens=sum(map(len, examples)),
    )


def label_logits(network: nn.Module, head: nn.Module, batch: Batch) -> Tensor:
    """The logits (labels, vocabulary), in float32, that predict `batch.targets`.

    `head` is the module inside `network` that turns hidden states into logits; what a model does
    to its logits afterwards (scaling, soft caps) still happens.
    """
    with _head_only_at(head, batch.positions):
        output = network(input_ids=batch.token_ids, use_cache=False)
    logits: Tensor = output.logits
    return logits.squeeze(0).float()


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats per labeled token."""
    return functional.cross_entropy(logits, targets)


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
