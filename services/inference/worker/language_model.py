"""What every language model does, whatever its architecture."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from services.chat.conversation import Conversation
from services.chat.encoder import EncodedExample
from services.inference.domain.generation import Sampling
from services.inference.worker.errors import OutputNotFinite
from services.inference.worker.sampling import TokenChooser

CONTEXT_WITHOUT_POSITIONS = 4096
"""Tokens taken by models that state no limit, as T5, whose positions are relative."""

_UNCUT = 2**31


class Encoder(Protocol):
    """Turns conversations into token ids, and back. Raises ChatError."""

    @property
    def eos_token_ids(self) -> frozenset[int]: ...
    def examples(self, conversation: Conversation, max_tokens: int) -> list[EncodedExample]: ...
    def prompt(self, conversation: Conversation) -> list[int]: ...
    def decode(self, token_ids: Iterable[int]) -> str: ...


@dataclass(frozen=True, eq=False)
class LanguageModel(ABC):
    """A network of the transformers library and the tokenizer that belongs to it."""

    network: Any
    encoder: Encoder

    reads: ClassVar[str]
    """The network's argument for the ids after which it tells the next token."""

    @property
    def context(self) -> int:
        """How many tokens it takes: of its positions, or, having none, a fixed number."""
        limit: object = getattr(self.network.config, "max_position_embeddings", None)
        return limit if isinstance(limit, int) else CONTEXT_WITHOUT_POSITIONS

    def with_network(self, network: Any) -> Self:
        """The same tokenizer with another network for it."""
        return replace(self, network=network)

    @abstractmethod
    def room(self, prompt: Sequence[int]) -> int:
        """How many tokens an answer to this prompt may have. Raises ContextExceeded."""

    def tokens(self, prompt: Sequence[int], sampling: Sampling, limit: int) -> Iterator[int]:
        """An answer's tokens, at most `limit`. Raises OutputNotFinite."""
        first, given = self._opening(prompt)
        chooser = TokenChooser(sampling, torch.tensor(first))
        ids = torch.tensor([first])
        cache: Any = None
        for _ in range(limit):
            read = {self.reads: ids}
            output = self.network(**read, **given, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            token = chooser.choose(output.logits[0, -1])
            yield token
            ids = torch.tensor([[token]])

    def score(self, conversation: Conversation) -> tuple[float, int]:
        """The summed cross-entropy of the trained turns' tokens in nats, and their number.

        Raises ContextExceeded, ChatError and OutputNotFinite.
        """
        examples = self.encoder.examples(conversation, max_tokens=_UNCUT)
        for example in examples:
            self._require_fit(example)
        loss, count = 0.0, 0
        for example in examples:
            logits, targets = self._predictions(example)
            nats = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="sum")
            loss += float(nats)
            count += len(targets)
        if not math.isfinite(loss):
            raise OutputNotFinite
        return loss, count

    @abstractmethod
    def _opening(self, prompt: Sequence[int]) -> tuple[Sequence[int], Mapping[str, Any]]:
        """The ids that the network reads first, and what else each of its calls is given."""

    @abstractmethod
    def _require_fit(self, example: EncodedExample) -> None:
        """Raises ContextExceeded."""

    @abstractmethod
    def _predictions(self, example: EncodedExample) -> tuple[Tensor, Tensor]:
        """The logits (labels, vocabulary) that predict the labeled tokens, and these (labels,)."""
