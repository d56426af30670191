"""Trying again: after pauses that grow, until patience ends."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from anneal.errors import AnnealError, DeadlineExceeded, Refusal

T = TypeVar("T")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
_CLOCKS_APART_S = 0.02
"""A call that is given what is left ends by grpc's clock, a little before it is over by ours."""


@dataclass
class Patience:
    """Lasts `patience_s` from its making, or from the last `restart`."""

    patience_s: float
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Something went well: full patience and short pauses again."""
        self._pause_s = FIRST_PAUSE_S
        self._end = self.monotonic() + self.patience_s

    def pause(self, at_most_s: float = math.inf) -> bool:
        """Sleeps, longer each time, and returns True; returns False at once when patience ended."""
        if self.monotonic() >= self._end:
            return False
        self.sleep(min(self._pause_s, at_most_s))
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        return True

    def call(self, ask: Callable[[], T], is_passing: Callable[[AnnealError], bool]) -> T:
        """Returns what `ask` returns, asking again while its failures are of the passing kind.

        Raises the last failure when patience ends.
        """
        while True:
            try:
                return ask()
            except AnnealError as error:
                if not is_passing(error) or not self.pause():
                    raise


@dataclass(frozen=True)
class Deadline:
    """When the caller's time is over: `timeout_s` from its making, never if that is None. `awaited`
    says what for, as in `the job`."""

    timeout_s: float | None
    awaited: str
    started: float = field(default_factory=time.monotonic)

    def left_s(self) -> float:
        """Returns what is left, which may be infinite. Raises DeadlineExceeded if nothing is."""
        if self.timeout_s is None:
            return math.inf
        left_s = self.started + self.timeout_s - time.monotonic()
        if left_s <= _CLOCKS_APART_S:
            message = f"{self.awaited} has not ended in the time given; it goes on"
            raise DeadlineExceeded(Refusal("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", message))
        return left_s
