"""Shows one example as the tokens that training sees, and tells whether it keeps the mask contract.

The tokens, which of them are trained and with what weight come from the encoders that the engine
uses; whose words they are, and what breaks the contract, does not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from tokenizers import Tokenizer

from services.chat.contract import Breach, BreachCode, Contract
from services.chat.conversation import Content, Conversation, Role
from services.chat.encoder import ChatEncoder, LaidOut
from services.chat.errors import NoLabeledTokens, TemplateUnsupported
from services.chat.mask import TokenizedText
from services.chat.pairs import Pair, PairEncoder, words_in_source
from services.chat.template import Span
from services.chat.text import TextEncoder
from services.chat.token_text import token_text
from services.chat.words import words_in

Encoder = ChatEncoder | PairEncoder | TextEncoder


@dataclass(frozen=True, slots=True)
class Token:
    """One token. `weight` is 0 where it is not trained. A token that is `cut_off` training never
    sees; one that is `source` an encoder reads. `role` is None where no message's words are."""

    id: int
    text: str
    role: Role | None
    weight: float
    cut_off: bool
    source: bool

    @property
    def trained(self) -> bool:
        return self.weight > 0


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens of one text, how much each counts, and whose words it belongs to. Those from `kept` on
    are cut off."""

    tokenized: TokenizedText
    weights: Sequence[float]
    roles: Sequence[Role | None]
    kept: int
    source: bool = False

    @property
    def token_count(self) -> int:
        return len(self.tokenized.token_ids)

    @property
    def trained_token_count(self) -> int:
        return sum(weight > 0 for weight in self.weights[: self.kept])

    def tokens(self, tokenizer: Tokenizer) -> Iterator[Token]:
        for index, token_id in enumerate(self.tokenized.token_ids):
            cut_off = index >= self.kept
            yield Token(
                id=token_id,
                text=token_text(tokenizer, self.tokenized, index),
                role=self.roles[index],
                weight=0.0 if cut_off else self.weights[index],
                cut_off=cut_off,
                source=self.source,
            )


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One sequence of tokens that training is given, and what of it is cut off."""

    stretches: tuple[Stretch, ...]

    @property
    def token_count(self) -> int:
        return sum(one.token_count for one in self.stretches)

    @property
    def trained_token_count(self) -> int:
        return sum(one.trained_token_count for one in self.stretches)

    @property
    def truncated(self) -> bool:
        return any(one.kept < one.token_count for one in self.stretches)

    def tokens(self, tokenizer: Tokenizer, limit: int | None = None) -> Iterator[Token]:
        return islice(chain.from_iterable(s.tokens(tokenizer) for s in self.stretches), limit)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What training makes of one example: nothing where the template cannot write it."""

    sequences: tuple[TokenSequence, ...]
    breaches: tuple[Breach, ...]

    @property
    def trained_token_count(self) -> int:
        return sum(one.trained_token_count for one in self.sequences)

    @property
    def truncated(self) -> bool:
        return any(one.truncated for one in self.sequences)


def inspect(encoder: Encoder, content: Content, max_tokens: int) -> Inspection:
    """Raises TypeError for a conversation and the encoder of plain texts, or the reverse."""
    match encoder, content:
        case TextEncoder(), str():
            return _text(encoder, content, max_tokens)
        case ChatEncoder() | PairEncoder(), Conversation():
            try:
                if isinstance(encoder, PairEncoder):
                    return _pairs(encoder, content, max_tokens)
                return _chat(encoder, content, max_tokens)
            except TemplateUnsupported as error:
                return Inspection((), (Breach(BreachCode.UNSUPPORTED, error.reason),))
        case _:
            raise TypeError(f"{type(encoder).__name__} does not encode a {type(content).__name__}")


def _text(encoder: TextEncoder, text: str, max_tokens: int) -> Inspection:
    whole = encoder.lay_out(text)
    pieces = encoder.cut(whole.token_ids, max_tokens)
    if not pieces:
        return Inspection((), (Breach(BreachCode.NOTHING_TRAINED, "the text has no token"),))
    return Inspection(tuple(_piece(whole, piece) for piece in pieces), ())


def _piece(whole: TokenizedText, piece: range) -> TokenSequence:
    place = slice(piece.start, piece.stop)
    ids, starts, ends = whole.token_ids[place], whole.starts[place], whole.ends[place]
    count = len(ids)
    weights = [0.0] + [1.0] * (count - 1)
    part = TokenizedText(whole.text, ids, starts, ends)
    return TokenSequence((Stretch(part, weights, [None] * count, count),))


def _pairs(encoder: PairEncoder, conversation: Conversation, max_tokens: int) -> Inspection:
    pairs = encoder.lay_out(conversation)
    sequences = tuple(_pair(pair, conversation, max_tokens) for pair in pairs)
    breaches: tuple[Breach, ...] = ()
    if not any(one.trained_token_count for one in sequences):
        error = NoLabeledTokens(truncated=bool(pairs), max_tokens=max_tokens)
        breaches = (Breach(BreachCode.NOTHING_TRAINED, str(error)),)
    return Inspection(sequences, breaches)


def _pair(pair: Pair, conversation: Conversation, max_tokens: int) -> TokenSequence:
    """A pair of whose target nothing is left is not trained on at all."""
    before = conversation[: pair.turn]
    source_count, target_count = len(pair.source.token_ids), len(pair.target.token_ids)
    kept = len(pair.example(max_tokens).token_ids)
    roles = _roles(pair.source, before, [[span] for span in words_in_source(before)])
    source = Stretch(
        pair.source, [0.0] * source_count, roles, source_count if kept else 0, source=True
    )
    answer = [Role.ASSISTANT] * target_count
    return TokenSequence((source, Stretch(pair.target, [pair.weight] * target_count, answer, kept)))


def _chat(encoder: ChatEncoder, conversation: Conversation, max_tokens: int) -> Inspection:
    laid_out = encoder.lay_out(conversation)
    words = words_in(laid_out.tokenized.text, conversation, encoder.render)
    kept = min(max_tokens, len(laid_out.tokenized.token_ids))
    roles = _roles(laid_out.tokenized, conversation, words)
    for token in chain.from_iterable(turn.tokens for turn in laid_out.turns):
        roles[token] = roles[token] or Role.ASSISTANT
    contract = Contract(encoder, conversation, laid_out, words, kept)
    breaches = [*_nothing_trained(laid_out, max_tokens), *contract.breaches()]
    stretch = Stretch(laid_out.tokenized, laid_out.weights, roles, kept)
    return Inspection((TokenSequence((stretch,)),), tuple(breaches))


def _roles(
    tokenized: TokenizedText, conversation: Conversation, words: Sequence[Sequence[Span]]
) -> list[Role | None]:
    roles: list[Role | None] = [None] * len(tokenized.token_ids)
    for message, spans in zip(conversation, words, strict=True):
        for span in spans:
            for token in tokenized.tokens_of(span):
                roles[token] = message.role
    return roles


def _nothing_trained(laid_out: LaidOut, max_tokens: int) -> Iterator[Breach]:
    try:
        laid_out.example(max_tokens)
    except NoLabeledTokens as error:
        yield Breach(BreachCode.NOTHING_TRAINED, str(error))
