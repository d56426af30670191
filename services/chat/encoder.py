"""Turns conversations into what a model reads: token ids, and which of them carry loss."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
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
    AnswerTurn,
    TokenizedText,
    answer_turns,
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


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A whole conversation as text and tokens; its assistant's turns in them, and how much each
    token counts in the loss."""

    tokenized: TokenizedText
    turns: list[AnswerTurn]
    weights: list[float]

    def example(self, max_tokens: int) -> EncodedExample:
        """Its first `max_tokens` tokens. Raises NoLabeledTokens as `encode` does."""
        token_ids = self.tokenized.token_ids[:max_tokens]
        truncated = len(token_ids) < len(self.tokenized.token_ids)
        weights = self.weights[:max_tokens]
        labeled = [weight > 0 for weight in weights]
        if not any(labeled[1:]):
            cut_off = truncated and any(self.weights)
            raise NoLabeledTokens(truncated=cut_off, max_tokens=max_tokens)
        if _UNWEIGHTED.issuperset(weights):  # what weighs more or less may have been cut off
            weights = []
        return EncodedExample(token_ids, labeled, truncated, weights=weights)


class ChatEncoder:
    """A model's tokenizer and chat template. Immutable; safe to share between threads."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, declared_eos: frozenset[int]
    ) -> None:
        self.tokenizer = tokenizer
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
        return self.lay_out(conversation).example(max_tokens)

    def lay_out(self, conversation: Conversation) -> LaidOut:
        """Raises TemplateUnsupported as `encode` does."""
        rendering = self._template.render(conversation)
        self._check_tools(conversation, rendering.text)
        tokenized = TokenizedText.of(self.tokenizer, rendering.text)
        turns = self._turns(conversation, rendering, tokenized)
        return LaidOut(tokenized, turns, _weights(turns, len(tokenized.token_ids)))

    def render(self, conversation: Conversation) -> str:
        """What the template writes. Raises TemplateUnsupported if it refuses the conversation."""
        return self._template.render(conversation).text

    def examples(self, conversation: Conversation, max_tokens: int) -> list[EncodedExample]:
        """The conversation as one example; raises as `encode` does."""
        return [self.encode(conversation, max_tokens)]

    def prompt(self, conversation: Conversation) -> list[int]:
        """The ids after which the model writes the next assistant turn.

        Raises TemplateUnsupported if the template refuses the conversation.
        """
        text = self._template.render(conversation, add_generation_prompt=True).text
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of these ids without special tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def _check_tools(self, conversation: Conversation, text: str) -> None:
        """A model would learn to call tools that it is never told of."""
        if conversation.offers_tools and self.render(replace(conversation, tools="")) == text:
            raise TemplateUnsupported("the chat template leaves out the definitions of the tools")

    def _turns(
        self, conversation: Conversation, rendering: Rendering, tokenized: TokenizedText
    ) -> list[AnswerTurn]:
        def by_tags() -> list[Span]:
            return turns_from_tags(rendering, conversation)

        def by_difference() -> list[Span]:
            return turns_by_difference(self._template, rendering, conversation)

        reasons: list[str] = []
        for find_turns in (by_tags, by_difference):
            try:
                return answer_turns(tokenized, find_turns(), conversation, self._control_ids)
            except TemplateUnsupported as error:
                reasons.append(error.reason)
        raise TemplateUnsupported(
            "cannot tell the assistant's tokens: by the chat template's tags, "
            f"{reasons[0]}; by comparing renderings, {reasons[1]}"
        )

    def _turn_end(self) -> frozenset[int]:
        """The token that ends an assistant's turn, found by encoding a conversation of one."""
        answer = Message(Role.ASSISTANT, "Hello", train=True)
        probe = Conversation.of(Message(Role.USER, "Hi"), answer)
        try:
            example = self.encode(probe, max_tokens=2**20)
        except ChatError:  # says nothing about other conversations; those are judged one by one
            return frozenset()
        pairs = zip(example.token_ids, example.labeled, strict=True)
        return frozenset([token for token, labeled in pairs if labeled][-1:])


def _weights(turns: Sequence[AnswerTurn], count: int) -> list[float]:
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
