"""Turns conversations into sources and targets, for models with an encoder and a decoder."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from services.chat.conversation import Conversation, Role
from services.chat.encoder import EncodedExample
from services.chat.errors import NoLabeledTokens, TemplateUnsupported
from services.chat.tokenizer_files import declared_eos, read_config, read_tokenizer, special_tokens

_SPEAKERS = {Role.SYSTEM: "", Role.USER: "User: ", Role.ASSISTANT: "Assistant: "}


class PairEncoder:
    """A model's tokenizer. Immutable; safe to share between threads.

    A source is the text before an answer, ended by the end-of-sequence token: the user's words
    alone where there are no others, as such models were pretrained; else all turns, a line each.
    """

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: frozenset[int], eos_id: int) -> None:
        self._tokenizer = tokenizer
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

        Raises NoLabeledTokens if nothing remains of any.
        """
        made = list(self._examples(conversation, max_tokens))
        if not any(example.token_ids for example in made):
            trained = any(message.train for message in conversation)
            raise NoLabeledTokens(truncated=trained, max_tokens=max_tokens)
        return made

    def prompt(self, conversation: Conversation) -> list[int]:
        """The source after which the model writes the next answer."""
        return [*self._ids(_source(conversation)), self._eos_id]

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of these ids without special tokens."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def _examples(self, conversation: Conversation, max_tokens: int) -> Iterator[EncodedExample]:
        for turn, message in enumerate(conversation):
            if not message.train:
                continue
            source = self.prompt(conversation[:turn])
            whole = [*self._ids(message.content), self._eos_id]
            target = whole[: max(0, max_tokens - len(source))]
            labeled = [True] * len(target)
            weights = [message.weight] * len(target) if message.weight != 1.0 else []
            yield EncodedExample(target, labeled, len(target) < len(whole), source, weights)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def _source(conversation: Conversation) -> str:
    if [message.role for message in conversation] == [Role.USER]:
        return conversation[0].content
    return "\n".join(_SPEAKERS[message.role] + message.content for message in conversation)
