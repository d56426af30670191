"""The conversation, as every part of the platform passes it around."""

from dataclasses import dataclass
from enum import StrEnum

LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1000.0
"""The bounds of a message's weight. Beside others, less would be lost in rounding."""


class Role(StrEnum):
    """Who speaks. The values are the words that chat templates compare with."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `train` says whether the loss covers it; only an assistant's turn may be trained.
    Each of its tokens counts `weight` times as much there as one of a turn of weight 1.

    Raises ValueError if any other role is marked for training, for a weight other than 1 on a turn
    that is not trained, and for a weight out of bounds.
    """

    role: Role
    content: str
    train: bool = False
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.train and self.role is not Role.ASSISTANT:
            raise ValueError(f"only assistant messages can be trained on, not {self.role.value}")
        if self.weight != 1.0:
            self._check_weight()

    @property
    def loss_weight(self) -> float:
        """How much each of its tokens counts in the loss: 0 where it is not trained."""
        return self.weight if self.train else 0.0

    def _check_weight(self) -> None:
        if not self.train:
            raise ValueError("a message that is not trained on has no weight")
        if not LEAST_WEIGHT <= self.weight <= MOST_WEIGHT:
            raise ValueError(f"a weight is {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}, not {self.weight}")


Conversation = tuple[Message, ...]


def is_weighted(conversation: Conversation) -> bool:
    """Whether any message counts otherwise than fully or not at all."""
    return any(message.weight != 1.0 for message in conversation)


Content = Conversation | str
"""What an example holds: a conversation, or a plain text of which every token is learnt."""
