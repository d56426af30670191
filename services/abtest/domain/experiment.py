"""An experiment, its prompts, and the states it goes through."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from services.abtest.domain.names import ExperimentName


class State(StrEnum):
    """Where an experiment stands."""

    GENERATING = "generating"
    READY = "ready"
    FAILED = "failed"


MOVES: Mapping[State, frozenset[State]] = {
    State.GENERATING: frozenset({State.READY, State.FAILED}),
    State.READY: frozenset(),
    State.FAILED: frozenset(),
}


class Arm(StrEnum):
    """One of the two models of an experiment."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"

    @property
    def other(self) -> "Arm":
        return Arm.CANDIDATE if self is Arm.BASELINE else Arm.BASELINE


class Role(StrEnum):
    """Who speaks in a conversation."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True)
class Turn:
    """What one of them says."""

    role: Role
    content: str


Prompt = tuple[Turn, ...]
"""A conversation that ends with a user's turn."""


@dataclass(frozen=True)
class Failure:
    """Why an answer could not be generated. `code` is a google.rpc.Code."""

    code: int
    reason: str
    message: str


@dataclass(frozen=True)
class Experiment:
    """A blind comparison of two models. `secret` decides sides and orders; it is never sent."""

    name: ExperimentName
    uid: str
    state: State
    baseline: str
    candidate: str
    max_output_tokens: int
    prompt_count: int
    ready_count: int
    secret: bytes
    error: Failure | None
    create_time: datetime
    update_time: datetime

    def model_of(self, arm: Arm) -> str:
        return self.baseline if arm is Arm.BASELINE else self.candidate

    def with_ready(self, ready_count: int, now: datetime) -> "Experiment":
        """The experiment with so many prompts answered by both arms: READY when that is all."""
        counted = replace(self, ready_count=ready_count)
        return advance(counted, State.READY, now) if ready_count == self.prompt_count else counted

    def failed(self, error: Failure, now: datetime) -> "Experiment":
        return replace(advance(self, State.FAILED, now), error=error)


def advance(experiment: Experiment, state: State, now: datetime) -> Experiment:
    """The experiment in its next state. Raises ValueError for a move that is not in MOVES."""
    if state not in MOVES[experiment.state]:
        raise ValueError(f"{experiment.name} cannot go from {experiment.state} to {state}")
    return replace(experiment, state=state, update_time=now)
