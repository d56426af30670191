"""The held-out examples: loss and accuracy, leaving no trace in the training."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from services.trainer.engine.batches import Batch
from services.trainer.engine.errors import OutOfMemory, is_out_of_memory
from services.trainer.engine.fast import summed_cross_entropy
from services.trainer.engine.loss import label_logits
from services.trainer.engine.model import TunableModel
from services.trainer.engine.team import Team


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`loss` in nats per labeled token, weighted as in training; `token_accuracy` the share of
    labeled tokens that were the model's first choice, each counted once whatever it weighs;
    `tokens` without padding."""

    loss: float
    token_accuracy: float
    tokens: int


@torch.no_grad()
def evaluate(model: TunableModel, batches: Iterable[Batch], team: Team) -> Evaluation:
    """Runs over the batches of all processes without dropout; draws nothing at random. There must
    be a labeled token in one of them.

    Where memory runs out a batch is computed in halves. Raises OutOfMemory if a single example is
    too much, or a batch of processes in step.
    """
    sums = torch.zeros(5, dtype=torch.float64)
    model.network.eval()
    with model.arithmetic():
        for batch in batches:
            sums += _whole_sums(model, batch) if team.in_step else _sums(model, batch)
    model.network.train()
    team.sum(sums)
    loss_sum, weight, correct_sum, labels, tokens = sums.tolist()
    return Evaluation(loss_sum / weight, correct_sum / labels, int(tokens))


def _sums(model: TunableModel, batch: Batch) -> Tensor:
    """(5,): the losses, their weight, the right first choices, the labels and the tokens."""
    try:
        return _whole_sums(model, batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    halves = batch.halves()  # out of the handler, in which the failed tensors still live
    if not halves:
        text = f"a single held-out example of {batch.tokens} tokens does not fit into the memory"
        raise OutOfMemory(text)
    return torch.stack([_sums(model, half) for half in halves]).sum(0)


def _whole_sums(model: TunableModel, batch: Batch) -> Tensor:
    logits = label_logits(model.network, model.head, batch)
    correct = (logits.argmax(-1) == batch.targets).sum()
    loss = summed_cross_entropy(logits, batch.targets, batch.weights)
    weight = batch.labels if batch.weights is None else batch.weights.sum(dtype=torch.float64)
    return torch.tensor(
        [loss.item(), float(weight), correct.item(), batch.labels, batch.tokens],
        dtype=torch.float64,
    )
