"""Choosing the next token."""

import torch

from services.inference.domain.generation import Sampling
from services.inference.worker.errors import OutputNotFinite

_COLDEST = 1e-5
"""A temperature below this is greedy in all but name, and dividing by it would overflow."""


class TokenChooser:
    """Chooses token after token by one request's sampling parameters and its own generator."""

    def __init__(self, sampling: Sampling, prompt: torch.Tensor) -> None:
        """`prompt` holds the prompt's ids, (tokens,): a repetition penalty counts them too."""
        self._sampling = sampling
        self._said = prompt
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**63)

    def choose(self, logits: torch.Tensor) -> int:
        """The next token for the logits of the last position, (vocabulary,), of which some may be
        -inf: those are never chosen. Raises OutputNotFinite."""
        logits = self._penalised(logits.float())
        if not logits.max().isfinite():  # NaN if any of them is
            raise OutputNotFinite
        if self._sampling.temperature < _COLDEST:
            token = int(logits.argmax())
        else:
            probabilities = self._filtered(logits / self._sampling.temperature).softmax(-1)
            token = int(torch.multinomial(probabilities, 1, generator=self._generator))
        self._said = torch.cat([self._said, self._said.new_tensor([token])])
        return token

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        """The repetition penalty of CTRL (Keskar et al., 2019, section 4.1)."""
        penalty = self._sampling.repetition_penalty
        if penalty == 1:
            return logits
        said = self._said.unique()
        scores = logits[said]
        penalised = torch.where(scores > 0, scores / penalty, scores * penalty)
        return logits.index_copy(0, said, penalised)

    def _filtered(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits in which every token outside top-k and top-p (Holtzman et al., 2020) is -inf."""
        ordered, order = logits.sort(descending=True, stable=True)
        if 0 < self._sampling.top_k < len(ordered):
            ordered[self._sampling.top_k :] = -torch.inf
        if self._sampling.top_p < 1:
            probabilities = ordered.softmax(-1)
            before = probabilities.cumsum(-1) - probabilities
            ordered[before >= self._sampling.top_p] = -torch.inf
        return torch.full_like(logits, -torch.inf).scatter(0, order, ordered)
