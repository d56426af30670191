"""From the dataset file to token ids: read, encoded, and split into training and held-out."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from services.chat.conversation import Conversation, Message, Role
from services.chat.encoder import ChatEncoder, EncodedExample
from services.chat.errors import NoLabeledTokens, TemplateUnsupported, TokenizerFilesMissing
from services.chat.pairs import PairEncoder
from services.trainer.engine.base_model import is_encoder_decoder
from services.trainer.engine.errors import Fault, InvalidData, InvalidJob
from services.trainer.engine.job import LongExamples, Training
from services.trainer.engine.plan import shuffled

_arrow: Any = pa  # untyped package
_parquet_file: Any = ParquetFile

_SHOWN_ROWS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """Token ids (int32), and 1 for each token that the loss covers. `source_ids` are what an
    encoder reads, else empty. `row` is the example's in the dataset, from 0."""

    token_ids: "array[int]"  # quoted: subscriptable at run time from Python 3.12 on
    labeled: bytes
    source_ids: "array[int]" = field(default_factory=lambda: array("i"))
    row: int = 0

    def __len__(self) -> int:
        return len(self.source_ids) + len(self.token_ids)


class Encoder(Protocol):
    """Turns conversations into token ids, and back."""

    @property
    def eos_token_ids(self) -> frozenset[int]: ...
    def examples(self, conversation: Conversation, max_tokens: int) -> list[EncodedExample]: ...
    def decode(self, token_ids: Iterable[int]) -> str: ...


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """All of a dataset that can be trained on, in the dataset's order.

    `skipped` counts examples without a labeled token within the limit, `truncated` those kept
    without their end, `dropped` those left out because they are too long. `digest` is a sha256
    over the tokens, the labels and the split.
    """

    training: tuple[Example, ...]
    validation: tuple[Example, ...]
    skipped: int
    truncated: int
    dropped: int
    digest: str


def load_encoder(base_model_dir: Path) -> Encoder:
    """Raises InvalidJob if the base model's tokenizer or chat template is of no use."""
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
    reader = _Reader(encoder, max_tokens, training.long_examples)
    for row, conversation in enumerate(_conversations(dataset_file)):
        reader.read(row, conversation)
    usable = reader.finish()
    held_out = held_out_indices(len(usable), training.validation_fraction, seed)
    learnt = tuple(e for i, e in enumerate(usable) if i not in held_out)
    validation = tuple(e for i, e in enumerate(usable) if i in held_out)
    return Examples(
        training=learnt,
        validation=validation,
        skipped=reader.skipped,
        truncated=reader.truncated,
        dropped=reader.dropped,
        digest=_digest(learnt, validation),
    )


class _Reader:
    """Encodes one conversation after the other, and counts what becomes of them."""

    def __init__(self, encoder: Encoder, max_tokens: int, long: LongExamples) -> None:
        self.skipped = self.truncated = self.dropped = 0
        self._encoder, self._max_tokens = encoder, max_tokens
        self._long: LongExamples = long
        self._usable: list[Example] = []
        self._too_long: list[int] = []

    def read(self, row: int, conversation: Conversation) -> None:
        try:
            encoded = self._encoder.examples(conversation, self._max_tokens)
        except NoLabeledTokens as error:
            if not (error.truncated and self._is_too_long(row)):
                self.skipped += 1
            return
        except TemplateUnsupported as error:
            raise InvalidData(f"example {row}: {error}") from error
        if any(one.truncated for one in encoded) and self._is_too_long(row):
            return
        self.truncated += sum(one.truncated for one in encoded)
        self._usable.extend(_compact(one, row) for one in encoded)

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


def _conversations(path: Path) -> Iterator[Conversation]:
    try:
        with _parquet_file(path) as file:
            if "messages" not in file.schema_arrow.names:
                raise InvalidData(f"{path.name} has no column messages")
            for batch in file.iter_batches(batch_size=1024, columns=["messages"]):
                yield from map(_conversation, batch.column(0).to_pylist())
    except _arrow.ArrowException as error:
        raise InvalidData(f"{path.name} is not readable as Parquet: {error}") from error


def _conversation(row: Any) -> Conversation:
    try:
        return tuple(Message(Role(m["role"]), _text(m["content"]), bool(m["train"])) for m in row)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidData(
            f"messages must be a list of role, content and train, but a row is {str(row)[:200]}"
        ) from error


def _text(content: object) -> str:
    if not isinstance(content, str):
        raise TypeError("content must be text")
    return content


def _compact(encoded: EncodedExample, row: int) -> Example:
    source = array("i", encoded.source_ids)
    return Example(array("i", encoded.token_ids), bytes(encoded.labeled), source, row)


def _digest(*parts: tuple[Example, ...]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}\n".encode())
        for example in part:
            digest.update(f"{len(example)}\n".encode())
            digest.update(example.token_ids.tobytes())
            digest.update(example.labeled)
            digest.update(example.source_ids.tobytes())
    return digest.hexdigest()
