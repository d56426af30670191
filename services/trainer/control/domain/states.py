"""Where a tuning job can stand, and where it can go from there."""

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """The states of a tuning job."""

    QUEUED = "QUEUED"  # waits for a node, also between two attempts
    RUNNING = "RUNNING"  # a node holds its lease
    CANCELLING = "CANCELLING"  # a node holds its lease and has yet to hear that it should stop
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


MOVES: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED}),
    State.RUNNING: frozenset({State.QUEUED, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
    State.CANCELLING: frozenset({State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}

FINAL = frozenset(state for state, next_states in MOVES.items() if not next_states)
HELD = frozenset({State.RUNNING, State.CANCELLING})
"""A node holds the lease of the job's current attempt."""
