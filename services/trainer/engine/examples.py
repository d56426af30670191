"""From the dataset file to token ids: read, encoded, and split into training and held-out."""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.chat.conversation import Conversation
from services.chat.encoder import ChatEncoder, EncodedExample
from services.chat.errors import NoLabeledTokens, TemplateUnsupported, TokenizerFilesMissing
from services.chat.pairs import PairEncoder
from services.chat.text import TextEncoder
from services.trainer.engine.base_model import is_encoder_decoder
from services.trainer.engine.dataset_file import conversations, holds_texts, texts
from services.trainer.engine.errors import Fault, InvalidData, InvalidJob
from services.trainer.engine.job import LongExamples, Training
from services.trainer.engine.plan import shuffled

_SHOWN_ROWS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """Token ids (int32), and 1 for each token that the loss covers. `source_ids` are what an
    encoder reads, else empty. `row` is the example's in the dataset, from 0. `weights` (float32)
    say how much the loss counts each token; None: each that it covers 1."""

    token_ids: "array[int]"  # quoted: subscriptable at run time from Python 3.12 on
    labeled: bytes
    source_ids: "array[int]" = field(default_factory=lambda: array("i"))
    row: int = 0
    weights: "array[float] | None" = None

    def __len__(self) -> int:
        return len(self.source_ids) + len(self.token_ids)


ConversationEncoder = ChatEncoder | PairEncoder
Encoder = ConversationEncoder | TextEncoder
"""Turns what examples hold into token ids, and back."""


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """All of a dataset that can be trained on, in the dataset's order. A plain text gives one for
    each of its pieces.

    `skipped` counts examples without a labeled token within the limit, `truncated` those kept
    without their end, `dropped` those left out because they are too long. `digest` is a sha256
    over the tokens, the labels, the weights and the split.
    """

    training: tuple[Example, ...]
    validation: tuple[Example, ...]
    skipped: int
    truncated: int
    dropped: int
    digest: str


def encoder_for(dataset_file: Path, base_model_dir: Path) -> Encoder:
    """The encoder for what the dataset holds.

    Raises InvalidData if the base model cannot learn that, or the file is no dataset; InvalidJob if
    the base model's tokenizer, or for conversations its chat template, is of no use.
    """
    if not holds_texts(dataset_file):
        return load_encoder(base_model_dir)
    if is_encoder_decoder(base_model_dir):
        raise InvalidData(
            "the dataset holds plain texts, and the base model is an encoder–decoder, which learns "
            "from pairs; take a decoder-only base model, or a dataset of conversations"
        )
    try:
        return TextEncoder.load(base_model_dir)
    except TokenizerFilesMissing as error:
        raise InvalidJob(Fault("base_model_dir", str(error))) from error


def load_encoder(base_model_dir: Path) -> ConversationEncoder:
    """The encoder for conversations. Raises InvalidJob if the base model's tokenizer or chat
    template is of no use."""
    kind = PairEncoder if is_encoder_decoder(base_model_dir) else ChatEncoder
    try:
        return kind.load(base_model_dir)
    except (TokenizerFilesMissing, TemplateUnsupported) as error:
        raise InvalidJob(Fault("base_model_dir", str(error))) from error


def load_examples(
    dataset_file: Path, encoder: Encoder, max_tokens: int, training: Training, seed: int
) -> Examples:
    """Raises InvalidData if the file is not what it should be, if the chat template cannot render
    one of its conversations, if an example is too long and may not be, or if nothing is left to
    train on."""
    reader = _Reader(max_tokens, training.long_examples)
    if isinstance(encoder, TextEncoder):
        for row, text in enumerate(texts(dataset_file)):
            reader.take(row, encoder.pieces(text, max_tokens))
    else:
        for row, conversation in enumerate(conversations(dataset_file)):
            reader.encode(row, conversation, encoder)
    usable = reader.finish()
    held_out = _held_out_rows(usable, training.validation_fraction, seed)
    learnt = tuple(e for e in usable if e.row not in held_out)
    validation = tuple(e for e in usable if e.row in held_out)
    return Examples(
        training=learnt,
        validation=validation,
        skipped=reader.skipped,
        truncated=reader.truncated,
        dropped=reader.dropped,
        digest=_digest(learnt, validation),
    )


class _Reader:
    """Takes one row after the other, and counts what becomes of them."""

    def __init__(self, max_tokens: int, long: LongExamples) -> None:
        self.skipped = self.truncated = self.dropped = 0
        self._max_tokens = max_tokens
        self._long: LongExamples = long
        self._usable: list[Example] = []
        self._too_long: list[int] = []

    def encode(self, row: int, conversation: Conversation, encoder: ConversationEncoder) -> None:
        try:
            encoded = encoder.examples(conversation, self._max_tokens)
        except NoLabeledTokens as error:
            if not (error.truncated and self._is_too_long(row)):
                self.skipped += 1
            return
        except TemplateUnsupported as error:
            raise InvalidData(f"example {row}: {error}") from error
        if not (any(one.truncated for one in encoded) and self._is_too_long(row)):
            self.take(row, encoded)

    def take(self, row: int, encoded: Sequence[EncodedExample]) -> None:
        kept = [one for one in encoded if one.token_ids]
        self.skipped += len(encoded) - len(kept) if encoded else 1
        self.truncated += sum(one.truncated for one in kept)
        self._usable.extend(_compact(one, row) for one in kept)

    def finish(self) -> list[Example]:
        if self._too_long:
            shown = ", ".join(map(str, self._too_long[:_SHOWN_ROWS]))
            raise InvalidData(
                f"{len(self._too_long)} examples are longer than {self._max_tokens} tokens: "
                f"rows {shown}{', …' if len(self._too_long) > _SHOWN_ROWS else ''}"
            )
        if not self._usable:
            left_out = self.skipped + self.dropped
            raise InvalidData(
                f"none of the {left_out} examples has a token to learn from within "
                f"{self._max_tokens} tokens"
            )
        return self._usable

    def _is_too_long(self, row: int) -> bool:
        """Whether a long example is to be left out; counts it then."""
        match self._long:
            case "truncate":
                return False
            case "drop":
                self.dropped += 1
            case "refuse":
                self._too_long.append(row)
        return True


def held_out_indices(count: int, fraction: float, seed: int) -> frozenset[int]:
    """Which of `count` examples are held out: at least one and never all, if `fraction` > 0 and
    there are two; else none."""
    if fraction == 0 or count < 2:
        return frozenset()
    held_out = min(max(1, round(count * fraction)), count - 1)
    return frozenset(shuffled(count, seed, "held-out")[:held_out])


def _held_out_rows(usable: Sequence[Example], fraction: float, seed: int) -> frozenset[int]:
    """Rows of the dataset: what comes of one row stands on one side of the split."""
    rows = list(dict.fromkeys(example.row for example in usable))
    return frozenset(rows[i] for i in held_out_indices(len(rows), fraction, seed))


def _compact(encoded: EncodedExample, row: int) -> Example:
    source = array("i", encoded.source_ids)
    weights = array("f", encoded.weights) if encoded.weights else None
    return Example(array("i", encoded.token_ids), bytes(encoded.labeled), source, row, weights)


def _digest(*parts: tuple[Example, ...]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}\n".encode())
        for example in part:
            digest.update(f"{len(example)}\n".encode())
            digest.update(example.token_ids.tobytes())
            digest.update(example.labeled)
            digest.update(example.source_ids.tobytes())
            if example.weights is not None:
                digest.update(b"weights\n" + example.weights.tobytes())
    return digest.hexdigest()
