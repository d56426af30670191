"""The proof of a whole dataset: every example inspected, and counted."""

from collections.abc import Iterable
from dataclasses import dataclass

from services.chat.contract import Breach
from services.chat.conversation import Content
from services.chat.inspection import Encoder, inspect

MAX_SHOWN_BREACHES = 100


@dataclass(frozen=True, slots=True)
class RowBreach:
    """A breach of one row, which counts from 0."""

    row: int
    breach: Breach


@dataclass(frozen=True, slots=True)
class Proof:
    """What has been seen so far: `breaches` are the first 100, `breach_count` counts all."""

    row_count: int
    trained_token_count: int
    truncated_row_count: int
    breaching_row_count: int
    breaches: tuple[RowBreach, ...]
    breach_count: int


class Prover:
    """Takes the examples of a dataset one after the other. Not for several threads at once."""

    def __init__(self, encoder: Encoder, max_tokens: int) -> None:
        self._encoder = encoder
        self._max_tokens = max_tokens
        self._rows = self._trained = self._truncated = self._breaching = self._count = 0
        self._breaches: list[RowBreach] = []

    def take_all(self, contents: Iterable[Content]) -> None:
        for content in contents:
            self.take(content)

    def take(self, content: Content) -> None:
        """Raises TypeError as `inspect` does."""
        inspected = inspect(self._encoder, content, self._max_tokens)
        room = MAX_SHOWN_BREACHES - len(self._breaches)
        shown = inspected.breaches[:room]
        self._breaches += [RowBreach(self._rows, breach) for breach in shown]
        self._count += len(inspected.breaches)
        self._breaching += bool(inspected.breaches)
        self._truncated += inspected.truncated
        self._trained += inspected.trained_token_count
        self._rows += 1

    @property
    def proof(self) -> Proof:
        return Proof(
            row_count=self._rows,
            trained_token_count=self._trained,
            truncated_row_count=self._truncated,
            breaching_row_count=self._breaching,
            breaches=tuple(self._breaches),
            breach_count=self._count,
        )
