"""Cuts plain texts into training examples: continued pretraining."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from services.chat.encoder import EncodedExample
from services.chat.errors import TokenizerFilesMissing
from services.chat.mask import TokenizedText
from services.chat.tokenizer_files import (
    declared_eos,
    leading_ids,
    read_config,
    read_tokenizer,
    special_tokens,
)


class TextEncoder:
    """A model's tokenizer; a chat template is not needed. Immutable; safe to share between threads.

    A text is written as for pretraining: behind what the tokenizer puts before every text (of some
    models a beginning-of-sequence token), and ended by the end-of-sequence token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        leading: Sequence[int],
        eos_id: int,
        eos_token_ids: frozenset[int],
    ) -> None:
        self.tokenizer = tokenizer
        self._leading = leading
        self._eos_id = eos_id
        self.eos_token_ids = eos_token_ids

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Reads tokenizer.json and tokenizer_config.json of a model directory.

        Raises TokenizerFilesMissing, also if they name no end-of-sequence token.
        """
        tokens = dict(special_tokens(read_config(directory)))
        tokenizer = read_tokenizer(directory)
        eos_id: int | None = tokenizer.token_to_id(tokens.get("eos_token", ""))
        if eos_id is None:
            path = directory / "tokenizer_config.json"
            raise TokenizerFilesMissing(str(path), "names no end-of-sequence token")
        eos_token_ids = declared_eos(directory, tokenizer, tokens)
        return cls(tokenizer, leading_ids(directory), eos_id, eos_token_ids)

    def pieces(self, text: str, max_tokens: int) -> list[EncodedExample]:
        """The text in consecutive pieces of at most `max_tokens` tokens, which is 2 or more; none
        if there is no token in it.

        A piece begins with the last token of the piece before it, from which its first label is
        predicted. So every token but the text's first is learnt, and exactly once.
        """
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        whole = [*self._leading, *ids, self._eos_id]
        return [_piece(whole[one.start : one.stop]) for one in self.cut(whole, max_tokens)]

    def lay_out(self, text: str) -> TokenizedText:
        """The whole text, as it is written."""
        return TokenizedText.of(self.tokenizer, text, self._leading, [self._eos_id])

    def cut(self, token_ids: Sequence[int], max_tokens: int) -> list[range]:
        """Where the pieces of a whole text lie."""
        count = len(token_ids)
        if count == len(self._leading) + 1:
            return []
        starts = range(0, count - 1, max_tokens - 1)
        return [range(start, min(start + max_tokens, count)) for start in starts]

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of these ids without special tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)


def _piece(token_ids: list[int]) -> EncodedExample:
    return EncodedExample(token_ids, [False] + [True] * (len(token_ids) - 1), truncated=False)
