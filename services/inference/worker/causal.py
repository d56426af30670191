"""Models that continue what they read."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from services.chat.encoder import EncodedExample
from services.inference.worker.errors import ContextExceeded
from services.inference.worker.language_model import LanguageModel


class CausalModel(LanguageModel):
    """Prompt and answer are one sequence, which has to fit into the context."""

    reads: ClassVar[str] = "input_ids"

    def room(self, prompt: Sequence[int]) -> int:
        if len(prompt) >= self.context:
            raise ContextExceeded(len(prompt), self.context - 1)
        return self.context - len(prompt)

    def _opening(self, prompt: Sequence[int]) -> tuple[Sequence[int], Mapping[str, Any]]:
        return prompt, {}

    def _require_fit(self, example: EncodedExample) -> None:
        if len(example.token_ids) > self.context:
            raise ContextExceeded(len(example.token_ids), self.context)

    def _predictions(self, example: EncodedExample) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([example.token_ids])
        labeled = torch.tensor(example.labeled)[1:]  # nothing stands before the first token
        logits: Tensor = self.network(input_ids=ids, use_cache=False).logits
        return logits[0, :-1][labeled], ids[0, 1:][labeled]
