"""Turns conversations into sources and targets, for models with an encoder and a decoder."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from services.chat.conversation import Conversation, Role
from services.chat.encoder import EncodedExample
from services.chat.errors import NoLabeledTokens, TemplateUnsupported
from services.chat.mask import TokenizedText
from services.chat.template import Span
from services.chat.tokenizer_files import declared_eos, read_config, read_tokenizer, special_tokens

_SPEAKERS = {Role.SYSTEM: "", Role.USER: "User: ", Role.ASSISTANT: "Assistant: ", Role.TOOL: ""}


@dataclass(frozen=True, slots=True)
class Pair:
    """A source and its target, both whole and ended. `turn` is the answer's in the conversation;
    `weight` how much each of the target's tokens counts."""

    source: TokenizedText
    target: TokenizedText
    turn: int
    weight: float

    def example(self, max_tokens: int) -> EncodedExample:
        source, whole = self.source.token_ids, self.target.token_ids
        target = whole[: max(0, max_tokens - len(source))]
        labeled = [True] * len(target)
        weights = [self.weight] * len(target) if self.weight != 1.0 else []
        return EncodedExample(target, labeled, len(target) < len(whole), source, weights)


class PairEncoder:
    """A model's tokenizer. Immutable; safe to share between threads.

    A source is the text before an answer, ended by the end-of-sequence token: the user's words
    alone where there are no others, as such models were pretrained; else all turns, a line each.
    """

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: frozenset[int], eos_id: int) -> None:
        self.tokenizer = tokenizer
        self._eos_id = eos_id
        self.eos_token_ids = eos_token_ids

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Reads tokenizer.json and tokenizer_config.json of a model directory.

        Raises TokenizerFilesMissing, and TemplateUnsupported if there is no end-of-sequence token.
        """
        tokens = dict(special_tokens(read_config(directory)))
        tokenizer = read_tokenizer(directory)
        eos_id: int | None = tokenizer.token_to_id(tokens.get("eos_token", ""))
        if eos_id is None:
            raise TemplateUnsupported("the tokenizer names no end-of-sequence token")
        return cls(tokenizer, declared_eos(directory, tokenizer, tokens), eos_id)

    def examples(self, conversation: Conversation, max_tokens: int) -> list[EncodedExample]:
        """One example for each trained answer, of at most `max_tokens` tokens with its source, cut
        at the end if longer; without tokens if nothing remains of this one.

        Raises NoLabeledTokens if nothing remains of any, and TemplateUnsupported for a
        conversation with tools: no model of this kind was pretrained to call any.
        """
        made = [pair.example(max_tokens) for pair in self.lay_out(conversation)]
        if not any(example.token_ids for example in made):
            trained = any(message.train for message in conversation)
            raise NoLabeledTokens(truncated=trained, max_tokens=max_tokens)
        return made

    def lay_out(self, conversation: Conversation) -> list[Pair]:
        """A pair for each trained answer. Raises TemplateUnsupported as `examples` does."""
        if conversation.uses_tools:
            raise TemplateUnsupported(
                "an encoder–decoder knows no tools; take a decoder-only model"
            )
        return [
            Pair(
                self._ended(_source(conversation[:turn])),
                self._ended(message.content),
                turn,
                message.weight,
            )
            for turn, message in enumerate(conversation)
            if message.train
        ]

    def prompt(self, conversation: Conversation) -> list[int]:
        """The source after which the model writes the next answer."""
        return self._ended(_source(conversation)).token_ids

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of these ids without special tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def _ended(self, text: str) -> TokenizedText:
        return TokenizedText.of(self.tokenizer, text, after=[self._eos_id])


def _source(conversation: Conversation) -> str:
    if [message.role for message in conversation] == [Role.USER]:
        return conversation[0].content
    return "\n".join(_SPEAKERS[message.role] + message.content for message in conversation)


def words_in_source(conversation: Conversation) -> list[Span]:
    """Where each message's words stand in the source that they make."""
    if [message.role for message in conversation] == [Role.USER]:
        return [(0, len(conversation[0].content))]
    spans: list[Span] = []
    position = 0
    for message in conversation:
        start = position + len(_SPEAKERS[message.role])
        spans.append((start, start + len(message.content)))
        position = start + len(message.content) + len("\n")
    return spans
