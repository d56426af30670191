"""The held-out examples: loss and accuracy, leaving no trace in the training."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from services.trainer.engine.batches import Batch
from services.trainer.engine.loss import label_logits, summed_loss
from services.trainer.engine.model import TunableModel
from services.trainer.engine.team import Team


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`loss` in nats per labeled token; `token_accuracy` the share of labeled tokens that were
    the model's first choice; `tokens` without padding."""

    loss: float
    token_accuracy: float
    tokens: int


@torch.no_grad()
def evaluate(model: TunableModel, batches: Iterable[Batch], team: Team) -> Evaluation:
    """Runs over the batches of all processes without dropout; draws nothing at random. There must
    be a labeled token in one of them."""
    sums = torch.zeros(4, dtype=torch.float64)
    model.network.eval()
    with model.arithmetic():
        for batch in batches:
            logits = label_logits(model.network, model.head, batch)
            correct = (logits.argmax(-1) == batch.targets).sum()
            loss = summed_loss(logits, batch.targets)
            sums += torch.tensor(
                [loss.item(), correct.item(), batch.labels, batch.tokens],
                dtype=torch.float64,
            )
    model.network.train()
    team.sum(sums)
    loss_sum, correct_sum, labels, tokens = sums.tolist()
    return Evaluation(loss_sum / labels, correct_sum / labels, int(tokens))
