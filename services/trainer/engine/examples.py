"""From the dataset file to token ids: read, encoded, and split into training and held-out."""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from services.chat.conversation import Conversation, Message, Role
from services.chat.encoder import ChatEncoder, EncodedExample
from services.chat.errors import NoLabeledTokens, TemplateUnsupported
from services.trainer.engine.errors import InvalidData
from services.trainer.engine.plan import shuffled

_arrow: Any = pa  # untyped package
_parquet_file: Any = ParquetFile


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """Token ids (int32), and 1 for each token that the loss covers."""

    token_ids: "array[int]"  # quoted: subscriptable at run time from Python 3.12 on
    labeled: bytes

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """All of a dataset that can be trained on, in the dataset's order.

    `skipped` counts examples without a labeled token within the limit, `truncated` those kept
    without their end. `digest` is a sha256 over the tokens, the labels and the split.
    """

    training: tuple[Example, ...]
    validation: tuple[Example, ...]
    skipped: int
    truncated: int
    digest: str


def load_examples(
    dataset_file: Path,
    encoder: ChatEncoder,
    max_tokens: int,
    validation_fraction: float,
    seed: int,
) -> Examples:
    """Raises InvalidData if the file is not what it should be, if the chat template cannot render
    one of its conversations, or if nothing is left to train on."""
    usable: list[Example] = []
    skipped = truncated = 0
    for row, conversation in enumerate(_conversations(dataset_file)):
        try:
            encoded = encoder.encode(conversation, max_tokens)
        except NoLabeledTokens:
            skipped += 1
            continue
        except TemplateUnsupported as error:
            raise InvalidData(f"example {row}: {error}") from error
        truncated += encoded.truncated
        usable.append(_compact(encoded))
    if not usable:
        raise InvalidData(
            f"none of the {skipped} examples has a token to learn from within {max_tokens} tokens"
        )
    held_out = held_out_indices(len(usable), validation_fraction, seed)
    training = tuple(e for i, e in enumerate(usable) if i not in held_out)
    validation = tuple(e for i, e in enumerate(usable) if i in held_out)
    digest = _digest(training, validation)
    return Examples(training, validation, skipped, truncated, digest)


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


def _compact(encoded: EncodedExample) -> Example:
    return Example(array("i", encoded.token_ids), bytes(encoded.labeled))


def _digest(*parts: tuple[Example, ...]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}\n".encode())
        for example in part:
            digest.update(f"{len(example)}\n".encode())
            digest.update(example.token_ids.tobytes())
            digest.update(example.labeled)
    return digest.hexdigest()
