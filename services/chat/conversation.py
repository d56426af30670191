"""The conversation, as every part of the platform passes it around."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import overload

LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1000.0
"""The bounds of a message's weight. Beside others, less would be lost in rounding."""

NO_TOOLS = "[]"


class Role(StrEnum):
    """Who speaks. The values are the words that chat templates compare with."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an assistant's turn asks for. `arguments` is a JSON text; the `id`, if there is
    one, is what the turn with the tool's answer refers to."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `train` says whether the loss covers it; only an assistant's turn may be trained.
    Each of its tokens counts `weight` times as much there as one of a turn of weight 1.

    Only an assistant calls tools, and only a tool's turn says by `tool_call_id` which call it
    answers. `name` tells speakers of one role apart. `input_start` is where in a user's turn the
    input begins that its instruction is about, for the formats which know of two parts; 0: nowhere.

    Raises ValueError if another role is marked for training, calls tools or answers a call; for a
    weight other than 1 on a turn that is not trained, and for a weight out of bounds.
    """

    role: Role
    content: str
    train: bool = False
    weight: float = 1.0
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    input_start: int = 0

    def __post_init__(self) -> None:
        if self.train or self.tool_calls or self.tool_call_id:
            self._check_role()
        if self.weight != 1.0:
            self._check_weight()

    @property
    def loss_weight(self) -> float:
        """How much each of its tokens counts in the loss: 0 where it is not trained."""
        return self.weight if self.train else 0.0

    def _check_role(self) -> None:
        if self.train and self.role is not Role.ASSISTANT:
            raise ValueError(f"only assistant messages can be trained on, not {self.role.value}")
        if self.tool_calls and self.role is not Role.ASSISTANT:
            raise ValueError(f"only assistant messages call tools, not {self.role.value}")
        if self.tool_call_id and self.role is not Role.TOOL:
            raise ValueError(f"only tool messages answer calls, not {self.role.value}")

    def _check_weight(self) -> None:
        if not self.train:
            raise ValueError("a message that is not trained on has no weight")
        if not LEAST_WEIGHT <= self.weight <= MOST_WEIGHT:
            raise ValueError(f"a weight is {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}, not {self.weight}")


@dataclass(frozen=True, slots=True)
class Conversation(Sequence[Message]):
    """Messages in their order, and the tools that the assistant may call in them: definitions as a
    JSON text of a list, empty if none are given (`NO_TOOLS` says that there are none, which is the
    same to a model). A slice has the same tools.

    `parallel_tool_calls` tells whether one turn may call several; None: it is not said.
    """

    messages: tuple[Message, ...]
    tools: str = ""
    parallel_tool_calls: bool | None = None

    @overload
    def __getitem__(self, index: int) -> Message: ...

    @overload
    def __getitem__(self, index: slice) -> "Conversation": ...

    def __getitem__(self, index: int | slice) -> "Message | Conversation":
        if isinstance(index, slice):
            return replace(self, messages=self.messages[index])
        return self.messages[index]

    @classmethod
    def of(cls, *messages: Message) -> "Conversation":
        """A conversation without tools."""
        return cls(messages)

    def __len__(self) -> int:
        return len(self.messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    @property
    def uses_tools(self) -> bool:
        return self.offers_tools or any(m.tool_calls or m.role is Role.TOOL for m in self.messages)

    @property
    def offers_tools(self) -> bool:
        return self.tools not in ("", NO_TOOLS)


@dataclass(frozen=True, slots=True)
class Preference:
    """A conversation that waits for an answer, one that is preferred, and one that is not. Either
    is what the assistant says; where it calls tools, what they answer stands between. The answers
    alone are marked for training.

    Raises ValueError where one of the two is missing.
    """

    prompt: Conversation
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]

    def __post_init__(self) -> None:
        if not self.chosen or not self.rejected:
            raise ValueError("a preference is one between two answers")


Content = Conversation | Preference | str
"""What an example holds: a conversation, a preference between two ends of one, or a plain text of
which every token is learnt."""
