"""The mask contract: what has to be true of every conversation that a model is trained on.

At least one token is trained; so is the token that ends a trained turn; and nothing is of a user's,
a system's or a tool's words, nor of a turn that is not to be learnt. None of that is taken from how
the labels were made: it is told by where the words stand in what the template has written.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from services.chat.conversation import Conversation, Role
from services.chat.encoder import ChatEncoder, LaidOut
from services.chat.template import Span


class BreachCode(StrEnum):
    """How an example can break the contract."""

    NOTHING_TRAINED = "NO_TRAINED_TOKEN"
    END_UNTRAINED = "END_OF_TURN_UNTRAINED"
    USER_TRAINED = "USER_TOKEN_TRAINED"
    UNLEARNT_TRAINED = "UNLEARNT_TURN_TRAINED"
    DROPPED = "MESSAGE_DROPPED"
    UNSUPPORTED = "TEMPLATE_UNSUPPORTED"


@dataclass(frozen=True, slots=True)
class Breach:
    code: BreachCode
    message: str


@dataclass(frozen=True, slots=True)
class Contract:
    """One conversation as it was laid out, where the words of its messages stand in that, and how
    many of its tokens are not cut off."""

    encoder: ChatEncoder
    conversation: Conversation
    laid_out: LaidOut
    words: Sequence[Sequence[Span]]
    kept: int

    def breaches(self) -> Iterator[Breach]:
        """All but a lack of trained tokens, of which the encoder tells."""
        turns = iter(self.laid_out.turns)
        for index, message in enumerate(self.conversation):
            turn = next(turns).tokens if message.role is Role.ASSISTANT else None
            if turn is None:
                yield from self._dropped(index)
            if turn is not None and message.train:
                yield from self._end_untrained(index, turn)
            else:
                yield from self._trained(index)

    def _end_untrained(self, index: int, turn: Sequence[int]) -> Iterator[Breach]:
        """By the first stop token behind the words; that it is cut off is no breach."""
        tokenized, stops = self.laid_out.tokenized, self.encoder.eos_token_ids
        for token in self._behind(index, turn):
            if token < self.kept and tokenized.token_ids[token] in stops:
                if not self.laid_out.weights[token]:
                    text = f"the token that ends message {index} is not trained: it would not end"
                    yield Breach(BreachCode.END_UNTRAINED, text)
                return

    def _behind(self, index: int, turn: Sequence[int]) -> range:
        """The tokens between a message's words and the next ones; of one without words, from its
        turn on."""
        starts = self.laid_out.tokenized.starts
        if self.words[index]:
            first = bisect_left(starts, self.words[index][-1][1])
        else:
            first = turn[0] if turn else len(starts)
        later = (bisect_left(starts, start) for start, _ in chain(*self.words[index + 1 :]))
        return range(first, min((one for one in later if one >= first), default=len(starts)))

    def _trained(self, index: int) -> Iterator[Breach]:
        message = self.conversation[index]
        tokens = chain(*(self.laid_out.tokenized.tokens_of(span) for span in self.words[index]))
        count = sum(self.laid_out.weights[token] > 0 for token in tokens if token < self.kept)
        if count and message.role is Role.ASSISTANT:
            text = f"{count} tokens of message {index} are trained, which is not to be learnt"
            yield Breach(BreachCode.UNLEARNT_TRAINED, text)
        elif count:
            text = f"{count} tokens of message {index} are trained, a {message.role.value}'s"
            yield Breach(BreachCode.USER_TRAINED, text)

    def _dropped(self, index: int) -> Iterator[Breach]:
        message = self.conversation[index]
        if message.content.strip() and not self.words[index]:
            text = f"the template drops or rewrites message {index}, a {message.role.value}'s"
            yield Breach(BreachCode.DROPPED, text)
