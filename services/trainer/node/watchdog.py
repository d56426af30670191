"""The second sign of life: a node that is there may have an engine that hangs."""

import asyncio
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import cast

from services.trainer.node.engine import EngineEvent

_REMEMBERED_STEPS = 101
_ENDS_OF_OTHER_WORK = ("step", "eval", "samples", "checkpoint")


@dataclass(frozen=True)
class Patience:
    """For how long an engine may tell nothing before it counts as hanging.

    In a step: `steps` times the median step of this engine, `least_s` at least. In all else that it
    does (it starts, takes its first step, evaluates, writes a checkpoint): `other_s`.
    `looks_every_s`: how often that is asked.
    """

    steps: float = 20.0
    least_s: float = 60.0
    other_s: float = 1800.0
    looks_every_s: float = 1.0


class Watchdog:
    """Watches one engine. Of a time between two looks that is far longer than it should be only
    little counts: this process had no time itself, or its host slept."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._step_seconds: deque[float] = deque(maxlen=_REMEMBERED_STEPS)
        self._in_steps = True
        self.silent_s = 0.0

    def heard(self, event: EngineEvent) -> None:
        """The engine has told something. Raises KeyError, TypeError and ValueError."""
        self.silent_s = 0.0
        kind = event["type"]
        if kind == "step":
            self._step_seconds.append(float(cast(float, event["step_seconds"])))
        if kind in _ENDS_OF_OTHER_WORK:
            self._in_steps = True
        elif kind == "alive":
            self._in_steps = event["doing"] == "step"

    def passed(self, seconds: float) -> None:
        """So long since the last look."""
        self.silent_s += min(seconds, 2 * self._patience.looks_every_s)

    async def bark(self) -> None:
        """Returns when the engine hangs."""
        time_s = asyncio.get_running_loop().time
        looked_at_s = time_s()
        while not self.is_hanging:
            await asyncio.sleep(self._patience.looks_every_s)
            self.passed(time_s() - looked_at_s)
            looked_at_s = time_s()

    @property
    def limit_s(self) -> float:
        if not (self._in_steps and self._step_seconds):
            return self._patience.other_s
        return max(self._patience.least_s, self._patience.steps * median(self._step_seconds))

    @property
    def is_hanging(self) -> bool:
        return self.silent_s > self.limit_s
