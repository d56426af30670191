"""The held-out examples: loss and accuracy, leaving no trace in the training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from services.trainer.engine.examples import Example
from services.trainer.engine.loss import collate, label_logits
from services.trainer.engine.model import TunableModel


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`loss` in nats per labeled token; `token_accuracy` the share of labeled tokens that were
    the model's first choice; `tokens` without padding."""

    loss: float
    token_accuracy: float
    tokens: int


@torch.no_grad()
def evaluate(model: TunableModel, examples: Sequence[Example], batch_size: int) -> Evaluation:
    """Runs over all `examples` without dropout; draws nothing at random. Needs at least one."""
    by_length = sorted(examples, key=len)
    total_loss = 0.0
    correct = labels = tokens = 0
    model.network.eval()
    for start in range(0, len(by_length), batch_size):
        batch = collate(by_length[start : start + batch_size], model.device)
        logits = label_logits(model.network, model.head, batch)
        total_loss += functional.cross_entropy(logits, batch.targets, reduction="sum").item()
        correct += int((logits.argmax(-1) == batch.targets).sum().item())
        labels += len(batch.targets)
        tokens += batch.tokens
    model.network.train()
    return Evaluation(total_loss / labels, correct / labels, tokens)
