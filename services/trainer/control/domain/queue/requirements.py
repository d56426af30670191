"""What a job says to the queue: how urgent it is, and which nodes can train it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from services.trainer.control.domain.frozen import Frozen

MAX_DEVICES = 64

LabelWord = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$")]
"""As Kubernetes has them: a label travels in configuration and stands in an index."""


class Priority(StrEnum):
    """Which waiting jobs come first."""

    LOW = "LOW"
    NORMAL = "NORMAL"
    HIGH = "HIGH"
    URGENT = "URGENT"

    @property
    def rank(self) -> int:
        """The higher, the earlier."""
        return _RANKS[self]


_RANKS: Mapping[Priority, int] = {priority: rank for rank, priority in enumerate(Priority)}


class Requirements(Frozen):
    """What a node must have to train a job: labels with just these values, and so many free devices
    of so many bytes each."""

    node_labels: dict[LabelWord, LabelWord] = Field(default_factory=dict[str, str], max_length=16)
    device_count: int = Field(default=1, ge=1, le=MAX_DEVICES)
    device_memory_bytes: int = Field(default=0, ge=0, lt=2**63)
