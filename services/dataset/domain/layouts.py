"""The forms of a canonical file: a column `messages` of conversations, or one `text` of plain
texts.

A message says by `train` whether it is learnt. In a file in which some count more or less than
others each has a `weight` instead, 0 if it is not learnt.

The forms are part of the format: another schema gives the same examples another digest.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar

import pyarrow as pa

from services.chat.conversation import Content, Conversation, Message, Role, is_weighted

MESSAGES = "messages"
TEXT = "text"


def _conversations(learnt: Any) -> Any:
    """The schema of a file of conversations whose messages have this third field."""
    turn = pa.struct(
        [
            pa.field("role", pa.string(), nullable=False),
            pa.field("content", pa.string(), nullable=False),
            learnt,
        ]
    )
    conversation = pa.list_(pa.field("element", turn, nullable=False))
    return pa.schema([pa.field(MESSAGES, conversation, nullable=False)])


@dataclass
class Conversations:
    """A row group of conversations in the making. `offsets` says where each of them ends, `learnt`
    whether each turn is, or how much."""

    LEARNT: ClassVar[Any] = pa.field("train", pa.bool_(), nullable=False)
    SCHEMA: ClassVar[Any] = _conversations(LEARNT)
    LEARNT_OF: ClassVar[Any] = attrgetter("train")
    DICTIONARIES: ClassVar[list[str]] = [f"{MESSAGES}.list.element.role"]

    offsets: list[int] = field(default_factory=lambda: [0])
    roles: list[str] = field(default_factory=list[str])
    contents: list[str] = field(default_factory=list[str])
    learnt: list[float] = field(default_factory=list[float])
    characters: int = 0

    def add(self, content: Content) -> None:
        """Raises TypeError for a plain text."""
        if isinstance(content, str):
            raise TypeError("a file of conversations takes no plain text")
        for message in content:
            self.roles.append(message.role.value)
            self.contents.append(message.content)
            self.characters += len(message.content)
        self.learnt.extend(map(self.LEARNT_OF, content))
        self.offsets.append(len(self.roles))

    @property
    def count(self) -> int:
        return len(self.offsets) - 1

    def batch(self) -> Any:
        """The row group as an Arrow record batch."""
        return _batch(
            self.SCHEMA,
            pa.array(self.offsets, pa.int32()),
            pa.array(self.roles, pa.string()),
            pa.array(self.contents, pa.string()),
            pa.array(self.learnt, self.LEARNT.type),
        )


class WeightedConversations(Conversations):
    """The same where messages have weights."""

    LEARNT: ClassVar[Any] = pa.field("weight", pa.float64(), nullable=False)
    SCHEMA: ClassVar[Any] = _conversations(LEARNT)
    LEARNT_OF: ClassVar[Any] = attrgetter("loss_weight")
    DICTIONARIES: ClassVar[list[str]] = [
        *Conversations.DICTIONARIES,
        f"{MESSAGES}.list.element.weight",
    ]

    @classmethod
    def of(cls, unweighted: Conversations) -> "WeightedConversations":
        """The same row group in the making."""
        return cls(
            unweighted.offsets,
            unweighted.roles,
            unweighted.contents,
            list(map(float, unweighted.learnt)),
            unweighted.characters,
        )

    @classmethod
    def of_batch(cls, unweighted: Any) -> Any:
        """The same row group, from and as an Arrow record batch."""
        lists = unweighted.column(0)
        turns = lists.values
        learnt = turns.field(2).cast(cls.LEARNT.type)
        return _batch(cls.SCHEMA, lists.offsets, turns.field(0), turns.field(1), learnt)


def _batch(schema: Any, offsets: Any, roles: Any, contents: Any, learnt: Any) -> Any:
    conversation = schema.field(0).type
    turn = conversation.value_type
    turns = pa.StructArray.from_arrays([roles, contents, learnt], fields=list(turn))
    lists = pa.ListArray.from_arrays(offsets, turns, type=conversation)
    return pa.record_batch([lists], schema=schema)


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
    """The form of a file of such examples."""
    if isinstance(content, str):
        return Texts
    return WeightedConversations if is_weighted(content) else Conversations


def _conversation(turns: list[dict[str, Any]]) -> Conversation:
    return tuple(map(_message, turns))


def _message(turn: dict[str, Any]) -> Message:
    role, content = Role(turn["role"]), turn["content"]
    if "weight" not in turn:
        return Message(role, content, turn["train"])
    weight = turn["weight"]
    return Message(role, content, train=True, weight=weight) if weight else Message(role, content)


CONTENT_OF: dict[str, Callable[[Any], Content]] = {MESSAGES: _conversation, TEXT: str}
"""By its column: what an example holds, from what Arrow makes of its row."""
