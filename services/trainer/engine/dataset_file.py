"""The dataset file: Parquet with a column of conversations, or `text` of plain texts.

In a column `messages` a message has a role, a content, and `train`, which says whether it is
learnt; in a file of weighted messages `weight` in place of that, 0 of those that are not learnt. In
a column `conversation` there are tools beside the messages, and calls of them in these.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from services.chat.conversation import Conversation, Message, Role, ToolCall
from services.trainer.engine.errors import InvalidData

_arrow: Any = pa  # untyped package
_parquet_file: Any = ParquetFile

_MESSAGES, _CONVERSATION, _TEXT = "messages", "conversation", "text"
_PREFERENCE = "preference"


def holds_texts(path: Path) -> bool:
    """Whether the dataset is of plain texts. Raises InvalidData if it is no Parquet."""
    with _opened(path) as file:
        names = set(file.schema_arrow.names)
    return _TEXT in names and names.isdisjoint((_MESSAGES, _CONVERSATION))


def conversations(path: Path) -> Iterator[Conversation]:
    """Raises InvalidData if the file, or one of its rows, is not what it should be."""
    with _opened(path) as file:
        names = file.schema_arrow.names
    if _PREFERENCE in names:
        raise InvalidData(
            f"{path.name} holds preferences between answers, and conversations are learnt here; "
            "take a dataset of conversations"
        )
    if _CONVERSATION in names:
        return map(_conversation, _rows(path, _CONVERSATION))
    return (_conversation({_MESSAGES: messages}) for messages in _rows(path, _MESSAGES))


def texts(path: Path) -> Iterator[str]:
    """Raises InvalidData if the file, or one of its rows, is not what it should be."""
    for row in _rows(path, _TEXT):
        if not isinstance(row, str):
            raise InvalidData(f"{_TEXT} must be a string, but a row is {str(row)[:200]}")
        yield row


def _rows(path: Path, column: str) -> Iterator[Any]:
    with _opened(path) as file:
        if column not in file.schema_arrow.names:
            raise InvalidData(f"{path.name} has no column {column}")
        for batch in file.iter_batches(batch_size=1024, columns=[column]):
            yield from batch.column(0).to_pylist()


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    try:
        with _parquet_file(path) as file:
            yield file
    except _arrow.ArrowException as error:
        raise InvalidData(f"{path.name} is not readable as Parquet: {error}") from error


def _conversation(row: Any) -> Conversation:
    try:
        messages = tuple(map(_message, row[_MESSAGES]))
        return Conversation(messages, row.get("tools") or "")
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidData(
            "messages must be a list of role, content and train or weight, but a row is "
            f"{str(row)[:200]}"
        ) from error


def _message(message: Any) -> Message:
    weight = float(message["weight"] if "weight" in message else bool(message["train"]))
    return Message(
        Role(message["role"]),
        _text(message["content"]),
        train=weight > 0,
        weight=weight or 1.0,
        tool_calls=tuple(ToolCall(**call) for call in message.get("tool_calls", ())),
        tool_call_id=message.get("tool_call_id", ""),
        name=message.get("name", ""),
    )


def _text(content: object) -> str:
    if not isinstance(content, str):
        raise TypeError("content must be text")
    return content
