"""What the router needs of the outside."""

from collections.abc import AsyncGenerator
from typing import Protocol

from services.inference.domain.generation import Conversation, Piece, Sampling, Score
from services.inference.domain.models import ModelName, ServedModel


class Catalog(Protocol):
    """Where models are known."""

    async def find(self, name: ModelName) -> ServedModel:
        """Raises ModelNotFound, and Unavailable when the registry cannot be reached."""
        ...


class Backend(Protocol):
    """What runs models.

    Both calls raise InvalidArgument for a conversation that does not fit, ModelUnusable,
    QueueFull, and WorkerStopped. Closing the generator cancels the rest of the answer.
    """

    def generate(
        self, model: ServedModel, conversation: Conversation, sampling: Sampling
    ) -> AsyncGenerator[Piece]: ...

    async def score(self, model: ServedModel, conversation: Conversation) -> Score: ...
