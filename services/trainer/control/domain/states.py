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
    PAUSING = "PAUSING"  # as CANCELLING, but is to wait then
    PAUSED = "PAUSED"  # waits until it is resumed


MOVES: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.PAUSED, State.CANCELLED, State.FAILED}),
    State.RUNNING: frozenset(
        {State.QUEUED, State.CANCELLING, State.PAUSING, State.SUCCEEDED, State.FAILED}
    ),
    State.CANCELLING: frozenset({State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.PAUSING: frozenset({State.PAUSED, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED, State.FAILED}),
}

FINAL = frozenset(state for state, next_states in MOVES.items() if not next_states)
HELD = frozenset({State.RUNNING, State.CANCELLING, State.PAUSING})
"""A node holds the lease of the job's current attempt."""
ACTIVE = HELD | {State.QUEUED}
"""The job takes part in the queue."""
WAITING = frozenset({State.QUEUED, State.PAUSED})
"""No node has anything to do with the job, and it has not ended."""


class Directive(StrEnum):
    """What a node is to do with a job that it holds."""

    TRAIN = "TRAIN"
    CANCEL = "CANCEL"
    PAUSE = "PAUSE"
    YIELD = "YIELD"  # to make room
    FINISH = "FINISH"  # with the best there is
