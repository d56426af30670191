"""The two forms of a canonical file: a column `messages` of conversations, or one `text` of plain
texts.

They are part of the format: another schema gives the same examples another digest.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from services.chat.conversation import Content, Conversation, Message, Role

MESSAGES = "messages"
TEXT = "text"

_TURN = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("train", pa.bool_(), nullable=False),
    ]
)
_CONVERSATION = pa.list_(pa.field("element", _TURN, nullable=False))


@dataclass
class Conversations:
    """A row group of conversations in the making. `offsets` says where each of them ends."""

    SCHEMA: ClassVar[Any] = pa.schema([pa.field(MESSAGES, _CONVERSATION, nullable=False)])
    DICTIONARIES: ClassVar[list[str]] = [f"{MESSAGES}.list.element.role"]

    offsets: list[int] = field(default_factory=lambda: [0])
    roles: list[str] = field(default_factory=list[str])
    contents: list[str] = field(default_factory=list[str])
    train: list[bool] = field(default_factory=list[bool])
    characters: int = 0

    def add(self, content: Content) -> None:
        """Raises TypeError for a plain text."""
        if isinstance(content, str):
            raise TypeError("a file of conversations takes no plain text")
        for message in content:
            self.roles.append(message.role.value)
            self.contents.append(message.content)
            self.train.append(message.train)
            self.characters += len(message.content)
        self.offsets.append(len(self.roles))

    @property
    def count(self) -> int:
        return len(self.offsets) - 1

    def batch(self) -> Any:
        """The row group as an Arrow record batch."""
        turns = pa.StructArray.from_arrays(
            [
                pa.array(self.roles, pa.string()),
                pa.array(self.contents, pa.string()),
                pa.array(self.train, pa.bool_()),
            ],
            fields=list(_TURN),
        )
        offsets = pa.array(self.offsets, pa.int32())
        lists = pa.ListArray.from_arrays(offsets, turns, type=_CONVERSATION)
        return pa.record_batch([lists], schema=self.SCHEMA)


@dataclass
class Texts:
    """A row group of plain texts in the making."""

    SCHEMA: ClassVar[Any] = pa.schema([pa.field(TEXT, pa.string(), nullable=False)])
    DICTIONARIES: ClassVar[list[str]] = []

    texts: list[str] = field(default_factory=list[str])
    characters: int = 0

    def add(self, content: Content) -> None:
        """Raises TypeError for a conversation."""
        if not isinstance(content, str):
            raise TypeError("a file of plain texts takes no conversation")
        self.texts.append(content)
        self.characters += len(content)

    @property
    def count(self) -> int:
        return len(self.texts)

    def batch(self) -> Any:
        """The row group as an Arrow record batch."""
        return pa.record_batch([pa.array(self.texts, pa.string())], schema=self.SCHEMA)


Layout = type[Conversations] | type[Texts]


def layout_of(content: Content) -> Layout:
    """The form of a file whose first example is this."""
    return Texts if isinstance(content, str) else Conversations


def _conversation(turns: list[dict[str, Any]]) -> Conversation:
    return tuple(Message(Role(turn["role"]), turn["content"], turn["train"]) for turn in turns)


CONTENT_OF: dict[str, Callable[[Any], Content]] = {MESSAGES: _conversation, TEXT: str}
"""By its column: what an example holds, from what Arrow makes of its row."""
