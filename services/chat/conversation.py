"""The conversation, as every part of the platform passes it around."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Who speaks. The values are the words that chat templates compare with."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `train` says whether the loss covers it; only an assistant's turn may be trained.

    Raises ValueError if any other role is marked for training.
    """

    role: Role
    content: str
    train: bool = False

    def __post_init__(self) -> None:
        if self.train and self.role is not Role.ASSISTANT:
            raise ValueError(f"only assistant messages can be trained on, not {self.role.value}")


Conversation = tuple[Message, ...]

Content = Conversation | str
"""What an example holds: a conversation, or a plain text of which every token is learnt."""
