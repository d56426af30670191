"""Finds the tokens of a rendered conversation that the model itself has to produce.

Two ways lead to an assistant turn's place in the text: the template's `{% generation %}` tags,
and, for the many templates without them, the difference between renderings of the conversation
with and without that turn. Both give character spans of *one* full rendering, and a token is
labeled if it lies wholly inside a span: nothing is ever tokenized in pieces, so the ids are
those that the model will see.

Labels end at the turn's stop token: whatever the template writes after it is never generated.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from tokenizers import Tokenizer

from services.chat.conversation import Conversation, Message, Role
from services.chat.errors import TemplateUnsupported
from services.chat.template import ChatTemplate, Rendering, Span


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text, its token ids, and each token's character range in the text, all in text order."""

    text: str
    token_ids: list[int]
    starts: list[int]
    ends: list[int]

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, text: str, before: Sequence[int] = (), after: Sequence[int] = ()
    ) -> "TokenizedText":
        """A text with ids before and after it that stand for nothing in it."""
        encoding = tokenizer.encode(text, add_special_tokens=False)
        end = len(text)
        ranges = [*((0, 0) for _ in before), *encoding.offsets, *((end, end) for _ in after)]
        ids = [*before, *encoding.ids, *after]
        return cls(text, ids, [start for start, _ in ranges], [end for _, end in ranges])

    def tokens_of(self, span: Span) -> range:
        """The positions of the tokens that hold any of the span's characters."""
        start, end = span
        return range(bisect_right(self.ends, start), bisect_left(self.starts, max(start, end)))


@dataclass(frozen=True, slots=True)
class AnswerTurn:
    """The positions of the tokens that the model has to write in an assistant's turn, and how much
    each of them counts in the loss: 0 where the turn is not trained."""

    tokens: list[int]
    weight: float


def turns_from_tags(rendering: Rendering, conversation: Conversation) -> list[Span]:
    """One span per assistant message, from the template's tags.

    Raises TemplateUnsupported if there is not exactly one tagged span for each of them.
    """
    answers = [m for m in conversation if m.role is Role.ASSISTANT]
    if len(rendering.spans) != len(answers):
        raise TemplateUnsupported(
            f"its generation tags mark {len(rendering.spans)} spans for "
            f"{len(answers)} assistant messages"
        )
    for turn, (span, answer) in enumerate(zip(rendering.spans, answers, strict=True), start=1):
        _check_content(rendering.text, span, answer, turn)
    return list(rendering.spans)


def turns_by_difference(
    template: ChatTemplate, rendering: Rendering, conversation: Conversation
) -> list[Span]:
    """One span per assistant message: from where the generation prompt before it ends, to where
    the conversation up to and with it stops being a prefix of the whole.

    Raises TemplateUnsupported if the template rewrites earlier messages, so that no span exists.
    """
    full = rendering.text
    spans: list[Span] = []
    for index, message in enumerate(conversation):
        if message.role is not Role.ASSISTANT:
            continue
        before = template.render(conversation[:index], add_generation_prompt=True).text
        through = template.render(conversation[: index + 1]).text
        span = (_common_length(before, full), _common_length(through, full))
        turn = len(spans) + 1
        _check_history(full[: span[0]], conversation[:index], turn)
        _check_content(full, span, message, turn)
        spans.append(span)
    return spans


def answer_turns(
    tokenized: TokenizedText,
    turns: Sequence[Span],
    conversation: Conversation,
    control_ids: AbstractSet[int],
) -> list[AnswerTurn]:
    """One for each assistant message.

    Raises TemplateUnsupported if the last assistant turn has no stop token among `control_ids`
    inside its span: a model trained so would never learn to stop.
    """
    found: list[AnswerTurn] = []
    answers = [m for m in conversation if m.role is Role.ASSISTANT]
    closed = False
    for span, message in zip(turns, answers, strict=True):
        tokens, closed = _generated_tokens(tokenized, span, control_ids)
        found.append(AnswerTurn(tokens, message.loss_weight))
    if not closed:
        raise TemplateUnsupported("no stop token ends the assistant's turn inside its span")
    return found


def _generated_tokens(
    tokenized: TokenizedText, span: Span, control_ids: AbstractSet[int]
) -> tuple[list[int], bool]:
    """The positions of a turn's tokens up to its stop token, and whether it has one."""
    start, end = span
    inside: list[int] = []
    for token in range(bisect_left(tokenized.starts, start), len(tokenized.starts)):
        if tokenized.starts[token] >= end:
            break
        if tokenized.starts[token] < tokenized.ends[token] <= end:
            inside.append(token)
    for count in range(len(inside), 0, -1):
        token = inside[count - 1]
        if tokenized.token_ids[token] in control_ids:
            return inside[:count], True
        if tokenized.text[tokenized.starts[token] : tokenized.ends[token]].strip():
            break
    return inside, False


def _common_length(first: str, second: str) -> int:
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))


def _check_history(kept: str, history: Conversation, turn: int) -> None:
    position = 0
    for message in history:
        position = max(_end_of(form, kept, position) for form in _forms(message))
        if position < 0:
            raise TemplateUnsupported(
                f"it drops or rewrites messages that come before assistant turn {turn}"
            )


def _forms(message: Message) -> list[str]:
    """How a template may write the content: some quote what a tool answers."""
    content = message.content.strip()
    if message.role is not Role.TOOL:
        return [content]
    return [content, json.dumps(message.content, ensure_ascii=False), json.dumps(message.content)]


def _end_of(form: str, text: str, position: int) -> int:
    found = text.find(form, position)
    return found if found < 0 else found + len(form)


def _check_content(text: str, span: Span, message: Message, turn: int) -> None:
    own = text[span[0] : span[1]] if span[1] > span[0] else ""
    if not own or message.content.strip() not in own:
        raise TemplateUnsupported(f"the text of assistant turn {turn} is not where its turn lies")
    if not all(call.name in own for call in message.tool_calls):
        raise TemplateUnsupported(f"the tool calls of assistant turn {turn} are not in its turn")
