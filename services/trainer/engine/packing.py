"""Whether a model keeps the examples of a packed row apart: it is tried before the first step."""

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from services.trainer.engine.batches import packed
from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.examples import Example
from services.trainer.engine.model import TunableModel

_LENGTH = 3
"""Tokens of each of the two examples."""
_TOLERATED = 0.05
"""Of a token's effect on its own example. Where examples are apart the effect on others is none at
all, but for what comes of rounding a whole row of activations together, as LLM.int8() does."""


def require_separation(model: TunableModel) -> None:
    """Raises InvalidJob if an example would see the one before it in its row.

    Position ids are all that tells a model where an example begins. Some families do not look at
    them for that, or mix tokens in ways that no mask can stop. Draws nothing at random.
    """
    first, other, another, *rest = _token_ids(model, 1 + 2 * _LENGTH)
    logits = [_logits(model, [first, second, *rest]) for second in (other, another)]
    changed = (logits[0] - logits[1]).abs().amax(1)
    on_its_own = changed[2:_LENGTH].max().item()
    on_the_next = changed[_LENGTH : 2 * _LENGTH].max().item()
    if on_the_next > _TOLERATED * on_its_own:
        text = (
            "with this base model and method an example would see those packed before it; "
            "set packing to false"
        )
        raise InvalidJob(Fault("training.packing", text))


def _token_ids(model: TunableModel, count: int) -> list[int]:
    network: Any = model.network
    vocabulary: int = network.get_input_embeddings().weight.shape[0]
    return [vocabulary * place // (count + 1) for place in range(1, count + 1)]


@torch.no_grad()
def _logits(model: TunableModel, token_ids: Sequence[int]) -> Tensor:
    """(tokens with padding, vocabulary): of two examples in a row."""
    halves = token_ids[:_LENGTH], token_ids[_LENGTH:]
    examples = [Example(array("i", half), bytes(_LENGTH)) for half in halves]
    batch = packed(examples, model.device)
    was_training = model.network.training
    model.network.eval()
    with model.arithmetic():
        logits: Tensor = model.network(**batch.inputs, use_cache=False).logits
    model.network.train(was_training)
    return logits.squeeze(0).float()
