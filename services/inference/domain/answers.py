"""The use cases: answer a conversation, or score one."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from services.common.faults import InvalidArgument, Violation
from services.inference.domain.generation import Conversation, Piece, Sampling, Score
from services.inference.domain.models import ServedModel, parse_model_name
from services.inference.domain.ports import Backend, Catalog

_MOST_TURNS = 256


@dataclass(frozen=True)
class Answering:
    """A model that has begun to answer. Whoever leaves `pieces` early closes them."""

    model: ServedModel
    pieces: AsyncGenerator[Piece]


class Answers:
    """Finds the model a caller names and asks the backend that runs it."""

    def __init__(self, catalog: Catalog, backend: Backend) -> None:
        self._catalog = catalog
        self._backend = backend

    async def generate(
        self, project: str, model: str, conversation: Conversation, sampling: Sampling
    ) -> Answering:
        """Raises InvalidArgument, ModelNotFound and Unavailable; the pieces raise what
        `Backend.generate` does."""
        name = parse_model_name(model, project)
        _require(_turn_faults(conversation) + _ends_with(conversation, "user"))
        served = await self._catalog.find(name)
        return Answering(served, self._backend.generate(served, conversation, sampling))

    async def score(
        self, project: str, model: str, conversation: Conversation
    ) -> tuple[ServedModel, Score]:
        """Raises InvalidArgument, ModelNotFound and what `Backend.score` does."""
        name = parse_model_name(model, project)
        _require(_turn_faults(conversation) + _has_assistant(conversation))
        served = await self._catalog.find(name)
        return served, await self._backend.score(served, conversation)


def _require(violations: list[Violation]) -> None:
    if violations:
        raise InvalidArgument(violations)


def _turn_faults(conversation: Conversation) -> list[Violation]:
    faults = [
        Violation(f"messages.{index}.content", "must not be empty", "EMPTY")
        for index, turn in enumerate(conversation)
        if not turn.content
    ]
    faults += [
        Violation(f"messages.{index}.role", "only the first turn may be the system's")
        for index, turn in enumerate(conversation)
        if turn.role == "system" and index > 0
    ]
    if not 1 <= len(conversation) <= _MOST_TURNS:
        faults.append(Violation("messages", f"must have 1 to {_MOST_TURNS} turns"))
    return faults


def _ends_with(conversation: Conversation, role: str) -> list[Violation]:
    if conversation and conversation[-1].role != role:
        return [Violation("messages", f"must end with a turn of the {role}")]
    return []


def _has_assistant(conversation: Conversation) -> list[Violation]:
    if not any(turn.role == "assistant" for turn in conversation):
        return [Violation("messages", "has no turn of the assistant", "NO_ASSISTANT_TURN")]
    return []
