"""Trying again: after pauses that grow, until patience ends."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from anneal.errors import AnnealError

T = TypeVar("T")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


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

    def pause(self) -> bool:
        """Sleeps, longer each time, and returns True; returns False at once when patience ended."""
        if self.monotonic() >= self._end:
            return False
        self.sleep(self._pause_s)
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
