"""Models that read a source as a whole and write their answer apart from it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from services.chat.encoder import EncodedExample
from services.inference.worker.errors import ContextExceeded
from services.inference.worker.language_model import LanguageModel


class EncoderDecoderModel(LanguageModel):
    """Source and answer have to fit into the context each for itself."""

    reads: ClassVar[str] = "decoder_input_ids"

    def room(self, prompt: Sequence[int]) -> int:
        if len(prompt) > self.context:
            raise ContextExceeded(len(prompt), self.context)
        return self.context

    def _opening(self, prompt: Sequence[int]) -> tuple[Sequence[int], Mapping[str, Any]]:
        source = self.network.get_encoder()(input_ids=torch.tensor([prompt]))
        return [self._start_id], {"encoder_outputs": source}

    def _require_fit(self, example: EncodedExample) -> None:
        longest = max(len(example.source_ids), len(example.token_ids))
        if longest > self.context:
            raise ContextExceeded(longest, self.context)

    def _predictions(self, example: EncodedExample) -> tuple[Tensor, Tensor]:
        """The decoder reads its start token, then the target but for its last token."""
        logits: Tensor = self.network(
            input_ids=torch.tensor([example.source_ids]),
            decoder_input_ids=torch.tensor([[self._start_id, *example.token_ids[:-1]]]),
            use_cache=False,
        ).logits
        labeled = torch.tensor(example.labeled)
        return logits[0][labeled], torch.tensor(example.token_ids)[labeled]

    @property
    def _start_id(self) -> int:
        return int(self.network.config.decoder_start_token_id)
