"""The forms of a canonical file.

Conversations without tools are a column `messages`: a message says by `train` whether it is learnt,
and in a file in which some count more or less than others each has a `weight` instead, 0 if it is
not learnt. A file in which any conversation holds more than that has a column `conversation`, with
all that one can hold. Preferences are a column `preference`. Plain texts are a column `text`.

The forms are part of the format: another schema gives the same examples another digest.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar

import pyarrow as pa

from services.chat.conversation import (
    Content,
    Conversation,
    Message,
    Preference,
    Role,
    ToolCall,
)

MESSAGES = "messages"
CONVERSATION = "conversation"
_OBJECT_CHARACTERS = 64
PREFERENCE = "preference"
TEXT = "text"


def _required(name: str, kind: Any) -> Any:
    return pa.field(name, kind, nullable=False)


def _list_of(kind: Any) -> Any:
    return pa.list_(_required("element", kind))


def _text_field(name: str) -> Any:
    return _required(name, pa.string())


def _plain(learnt: Any) -> Any:
    """The schema of a file of conversations whose messages have this third field."""
    turn = pa.struct([_text_field("role"), _text_field("content"), learnt])
    return pa.schema([_required(MESSAGES, _list_of(turn))])


@dataclass
class Conversations:
    """A row group of conversations in the making. `offsets` says where each of them ends, `learnt`
    whether each turn is, or how much."""

    LEARNT: ClassVar[Any] = _required("train", pa.bool_())
    SCHEMA: ClassVar[Any] = _plain(LEARNT)
    LEARNT_OF: ClassVar[Any] = attrgetter("train")
    DICTIONARIES: ClassVar[list[str]] = [f"{MESSAGES}.list.element.role"]

    offsets: list[int] = field(default_factory=lambda: [0])
    roles: list[str] = field(default_factory=list[str])
    contents: list[str] = field(default_factory=list[str])
    learnt: list[float] = field(default_factory=list[float])
    characters: int = 0

    def add(self, content: Content) -> None:
        """Raises TypeError for a plain text."""
        messages = _require_conversation(content).messages
        for message in messages:
            self.roles.append(message.role.value)
            self.contents.append(message.content)
            self.characters += len(message.content)
        self.learnt.extend(map(self.LEARNT_OF, messages))
        self.offsets.append(len(self.roles))

    @property
    def count(self) -> int:
        return len(self.offsets) - 1

    def batch(self) -> Any:
        """The row group as an Arrow record batch."""
        conversation = self.SCHEMA.field(0).type
        turns = pa.StructArray.from_arrays(
            [
                pa.array(self.roles, pa.string()),
                pa.array(self.contents, pa.string()),
                pa.array(self.learnt, self.LEARNT.type),
            ],
            fields=list(conversation.value_type),
        )
        offsets = pa.array(self.offsets, pa.int32())
        lists = pa.ListArray.from_arrays(offsets, turns, type=conversation)
        return pa.record_batch([lists], schema=self.SCHEMA)


class WeightedConversations(Conversations):
    """The same where messages have weights."""

    LEARNT: ClassVar[Any] = _required("weight", pa.float64())
    SCHEMA: ClassVar[Any] = _plain(LEARNT)
    LEARNT_OF: ClassVar[Any] = attrgetter("loss_weight")
    DICTIONARIES: ClassVar[list[str]] = [
        *Conversations.DICTIONARIES,
        f"{MESSAGES}.list.element.weight",
    ]


@dataclass
class FullConversations:
    """A row group in the making of conversations with all that they can hold."""

    CALL: ClassVar[Any] = pa.struct(
        [_text_field("id"), _text_field("name"), _text_field("arguments")]
    )
    TURN: ClassVar[Any] = pa.struct(
        [
            _text_field("role"),
            _text_field("content"),
            _required("weight", pa.float64()),
            _text_field("name"),
            _required("tool_calls", _list_of(CALL)),
            _text_field("tool_call_id"),
            _required("input_start", pa.int32()),
        ]
    )
    ROW: ClassVar[Any] = pa.struct(
        [
            _required("messages", _list_of(TURN)),
            _text_field("tools"),
            pa.field("parallel_tool_calls", pa.bool_()),
        ]
    )
    SCHEMA: ClassVar[Any] = pa.schema([_required(CONVERSATION, ROW)])
    DICTIONARIES: ClassVar[list[str]] = [
        f"{CONVERSATION}.messages.list.element.role",
        f"{CONVERSATION}.messages.list.element.weight",
        f"{CONVERSATION}.tools",
    ]

    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    characters: int = 0

    def add(self, content: Content) -> None:
        """Raises TypeError for a plain text."""
        conversation = _require_conversation(content)
        self.rows.append(_full_row(conversation))
        self.characters += _all_characters(conversation)

    @property
    def count(self) -> int:
        return len(self.rows)

    def batch(self) -> Any:
        """The row group as an Arrow record batch."""
        rows = pa.array(self.rows, self.SCHEMA.field(0).type)
        return pa.record_batch([rows], schema=self.SCHEMA)


@dataclass
class Preferences:
    """A row group of preferences in the making."""

    ROW: ClassVar[Any] = pa.struct(
        [
            _required("prompt", FullConversations.ROW),
            _required("chosen", _list_of(FullConversations.TURN)),
            _required("rejected", _list_of(FullConversations.TURN)),
        ]
    )
    SCHEMA: ClassVar[Any] = pa.schema([_required(PREFERENCE, ROW)])
    DICTIONARIES: ClassVar[list[str]] = [
        f"{PREFERENCE}.prompt.messages.list.element.role",
        f"{PREFERENCE}.prompt.tools",
        f"{PREFERENCE}.chosen.list.element.role",
        f"{PREFERENCE}.rejected.list.element.role",
    ]

    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    characters: int = 0

    def add(self, content: Content) -> None:
        """Raises TypeError for what is none."""
        if not isinstance(content, Preference):
            raise TypeError("a file of preferences takes nothing else")
        self.rows.append(
            {
                "prompt": _full_row(content.prompt),
                "chosen": list(map(_turn, content.chosen)),
                "rejected": list(map(_turn, content.rejected)),
            }
        )
        self.characters += _all_characters(content.prompt)
        self.characters += sum(map(_characters, (*content.chosen, *content.rejected)))

    @property
    def count(self) -> int:
        return len(self.rows)

    def batch(self) -> Any:
        """The row group as an Arrow record batch."""
        rows = pa.array(self.rows, self.SCHEMA.field(0).type)
        return pa.record_batch([rows], schema=self.SCHEMA)


@dataclass
class Texts:
    """A row group of plain texts in the making."""

    SCHEMA: ClassVar[Any] = pa.schema([_text_field(TEXT)])
    DICTIONARIES: ClassVar[list[str]] = []

    texts: list[str] = field(default_factory=list[str])
    characters: int = 0

    def add(self, content: Content) -> None:
        """Raises TypeError for a conversation."""
        if not isinstance(content, str):
            raise TypeError("a file of plain texts takes no conversation, and no preference")
        self.texts.append(content)
        self.characters += len(content)

    @property
    def count(self) -> int:
        return len(self.texts)

    def batch(self) -> Any:
        """The row group as an Arrow record batch."""
        return pa.record_batch([pa.array(self.texts, pa.string())], schema=self.SCHEMA)


Columns = Conversations | FullConversations | Preferences | Texts
Layout = type[Conversations] | type[FullConversations] | type[Preferences] | type[Texts]

_BY_ROOM: tuple[Layout, ...] = (Conversations, WeightedConversations, FullConversations)
"""Each holds whatever those before it hold."""


def layout_of(content: Content) -> Layout:
    """The form of a file of such examples."""
    if isinstance(content, str):
        return Texts
    if isinstance(content, Preference):
        return Preferences
    if content.tools or content.parallel_tool_calls is not None:
        return FullConversations
    weighted = False
    for turn in content.messages:
        more = turn.tool_calls or turn.tool_call_id or turn.name or turn.input_start
        if more or turn.role is Role.TOOL:
            return FullConversations
        weighted = weighted or turn.weight != 1.0
    return WeightedConversations if weighted else Conversations


def has_room(layout: Layout, content: Content) -> bool:
    """Whether a file of this form can hold the example, if it is of the same kind."""
    needed = layout_of(content)
    if needed is layout or layout not in _BY_ROOM or needed not in _BY_ROOM:
        return True
    return _BY_ROOM.index(layout) >= _BY_ROOM.index(needed)


def _require_conversation(content: Content) -> Conversation:
    if not isinstance(content, Conversation):
        raise TypeError("a file of conversations takes no plain text, and no preference")
    return content


def _characters(message: Message) -> int:
    """With what an object itself takes, so that many small ones fill a row group too."""
    calls = message.tool_calls
    words = len(message.content) + len(message.name) + len(message.tool_call_id)
    called = sum(len(call.id) + len(call.name) + len(call.arguments) for call in calls)
    return words + called + _OBJECT_CHARACTERS * (1 + len(calls))


def _all_characters(conversation: Conversation) -> int:
    return len(conversation.tools) + sum(map(_characters, conversation))


def _full_row(conversation: Conversation) -> dict[str, Any]:
    return {
        "messages": list(map(_turn, conversation)),
        "tools": conversation.tools,
        "parallel_tool_calls": conversation.parallel_tool_calls,
    }


def _turn(message: Message) -> dict[str, Any]:
    return {
        "role": message.role.value,
        "content": message.content,
        "weight": message.loss_weight,
        "name": message.name,
        "tool_calls": [
            {"id": call.id, "name": call.name, "arguments": call.arguments}
            for call in message.tool_calls
        ],
        "tool_call_id": message.tool_call_id,
        "input_start": message.input_start,
    }


def _plain_conversation(turns: list[dict[str, Any]]) -> Conversation:
    return Conversation(tuple(map(_message, turns)))


def _full_conversation(row: dict[str, Any]) -> Conversation:
    messages = tuple(map(_message, row["messages"]))
    return Conversation(messages, row["tools"], row["parallel_tool_calls"])


def _preference(row: dict[str, Any]) -> Preference:
    chosen, rejected = (tuple(map(_message, row[end])) for end in ("chosen", "rejected"))
    return Preference(_full_conversation(row["prompt"]), chosen, rejected)


def _message(turn: dict[str, Any]) -> Message:
    told = dict(turn)
    role, weight = Role(told.pop("role")), float(told.pop("weight", told.pop("train", 0)))
    calls = tuple(ToolCall(**call) for call in told.pop("tool_calls", ()))
    return Message(role, train=weight > 0, weight=weight or 1.0, tool_calls=calls, **told)


CONTENT_OF: dict[str, Callable[[Any], Content]] = {
    MESSAGES: _plain_conversation,
    CONVERSATION: _full_conversation,
    PREFERENCE: _preference,
    TEXT: str,
}
"""By its column: what an example holds, from what Arrow makes of its row."""
