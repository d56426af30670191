"""Turns conversations into what a model reads: token ids, and which of them carry loss."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self, cast

from tokenizers import Tokenizer

from services.chat.conversation import Conversation, Message, Role
from services.chat.errors import (
    ChatError,
    NoLabeledTokens,
    TemplateUnsupported,
)
from services.chat.mask import (
    LabeledTurn,
    TokenizedText,
    labeled_turns,
    turns_by_difference,
    turns_from_tags,
)
from services.chat.template import ChatTemplate, Rendering, Span
from services.chat.tokenizer_files import (
    declared_eos,
    read_config,
    read_tokenizer,
    special_tokens,
)

_UNWEIGHTED = frozenset({0.0, 1.0})


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """A training example: `labeled[i]` says whether the loss covers `token_ids[i]`, `weights[i]`
    how much it counts there; without `weights` each labeled token counts 1.

    `truncated` tells that the conversation was longer and its end was cut off. `source_ids` are
    what the encoder of an encoder–decoder reads; other models have none. Where the source alone
    fills the limit there are no `token_ids`, so that it can be told that an answer was lost.
    """

    token_ids: list[int]
    labeled: list[bool]
    truncated: bool
    source_ids: list[int] = field(default_factory=list[int])
    weights: list[float] = field(default_factory=list[float])


class ChatEncoder:
    """A model's tokenizer and chat template. Immutable; safe to share between threads."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, declared_eos: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        special = (i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special)
        self._control_ids = declared_eos | frozenset(special)
        self.eos_token_ids = declared_eos | self._turn_end()
        """Ids at which generation stops: those the model declares and the one that its template
        ends an assistant's turn with."""

    @classmethod
    def load(cls, directory: Path, now: Callable[[], datetime] | None = None) -> Self:
        """Reads tokenizer.json, tokenizer_config.json and the chat template of a model directory.

        `now` is what a template's `strftime_now` tells. By default it is one fixed date, so that
        the same data gives the same tokens on every day.

        Raises TokenizerFilesMissing and TemplateUnsupported.
        """
        config = read_config(directory)
        tokens = dict(special_tokens(config))
        tokenizer = read_tokenizer(directory)
        template = ChatTemplate(_template_source(directory, config), tokens, now or _fixed_date)
        return cls(tokenizer, template, declared_eos(directory, tokenizer, tokens))

    def encode(self, conversation: Conversation, max_tokens: int) -> EncodedExample:
        """Encodes a training example of at most `max_tokens` tokens, cut at the end if longer.

        Raises TemplateUnsupported if it cannot be told which tokens are the assistant's, and
        NoLabeledTokens if none of those that remain carries loss. (The first token never does:
        nothing stands before it to predict it from.)
        """
        if not any(message.train for message in conversation):
            raise NoLabeledTokens(truncated=False, max_tokens=max_tokens)
        rendering = self._template.render(conversation)
        tokenized = self._tokenize(rendering.text)
        turns = self._labeled_turns(conversation, rendering, tokenized)
        token_ids = tokenized.token_ids[:max_tokens]
        labeled = _labels(turns, len(tokenized.token_ids))[:max_tokens]
        truncated = len(token_ids) < len(tokenized.token_ids)
        if not any(labeled[1:]):
            raise NoLabeledTokens(truncated=truncated, max_tokens=max_tokens)
        weights = _weights(turns, len(tokenized.token_ids))[:max_tokens]
        if _UNWEIGHTED.issuperset(weights):  # what weighs more or less has been cut off
            weights = []
        return EncodedExample(token_ids, labeled, truncated, weights=weights)

    def examples(self, conversation: Conversation, max_tokens: int) -> list[EncodedExample]:
        """The conversation as one example; raises as `encode` does."""
        return [self.encode(conversation, max_tokens)]

    def prompt(self, conversation: Conversation) -> list[int]:
        """The ids after which the model writes the next assistant turn.

        Raises TemplateUnsupported if the template refuses the conversation.
        """
        text = self._template.render(conversation, add_generation_prompt=True).text
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of these ids without special tokens."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def _tokenize(self, text: str) -> TokenizedText:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        offsets = encoding.offsets
        return TokenizedText(text, encoding.ids, [s for s, _ in offsets], [e for _, e in offsets])

    def _labeled_turns(
        self, conversation: Conversation, rendering: Rendering, tokenized: TokenizedText
    ) -> list[LabeledTurn]:
        def by_tags() -> list[Span]:
            return turns_from_tags(rendering, conversation)

        def by_difference() -> list[Span]:
            return turns_by_difference(self._template, rendering, conversation)

        reasons: list[str] = []
        for find_turns in (by_tags, by_difference):
            try:
                return labeled_turns(tokenized, find_turns(), conversation, self._control_ids)
            except TemplateUnsupported as error:
                reasons.append(error.reason)
        raise TemplateUnsupported(
            "cannot tell the assistant's tokens: by the chat template's tags, "
            f"{reasons[0]}; by comparing renderings, {reasons[1]}"
        )

    def _turn_end(self) -> frozenset[int]:
        """The token that ends an assistant's turn, found by encoding a conversation of one."""
        probe = (Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello", train=True))
        try:
            example = self.encode(probe, max_tokens=2**20)
        except ChatError:  # says nothing about other conversations; those are judged one by one
            return frozenset()
        pairs = zip(example.token_ids, example.labeled, strict=True)
        return frozenset([token for token, labeled in pairs if labeled][-1:])


def _labels(turns: Sequence[LabeledTurn], count: int) -> list[bool]:
    labeled = [False] * count
    for turn in turns:
        for token in turn.tokens:
            labeled[token] = True
    return labeled


def _weights(turns: Sequence[LabeledTurn], count: int) -> list[float]:
    """None where each turn's is 1."""
    if all(turn.weight == 1.0 for turn in turns):
        return []
    weights = [0.0] * count
    for turn in turns:
        for token in turn.tokens:
            weights[token] = turn.weight
    return weights


def _fixed_date() -> datetime:
    """The date that Llama 3's templates name where there is no clock."""
    return datetime(2024, 7, 26)


def _template_source(directory: Path, config: dict[str, Any]) -> str:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    source: Any = config.get("chat_template")
    if isinstance(source, list):
        named = {t["name"]: t["template"] for t in cast("list[dict[str, Any]]", source)}
        source = named.get("default")
    if not isinstance(source, str):
        raise TemplateUnsupported("the model has no chat template")
    return source
