"""How long jobs hold a node, by those that ended lately."""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random

from services.trainer.control.domain.queue.lines import Line

_ENOUGH = 8
"""Of like attempts; of fewer, those of more distant kin count too."""


@dataclass(frozen=True)
class Kind:
    """What a job's duration goes with: among jobs of the same model and method it is proportional
    to `work`, tokens to learn from times parameters; 0: not known."""

    line: Line
    base_model: str
    method: str
    work: float


@dataclass(frozen=True)
class Past:
    """A job that ended. `seconds` is how long its last attempt took; None: it had none."""

    kind: Kind
    create_time: datetime
    seconds: float | None


class Experience:
    """Durations to draw from: those of the nearest kin of which there are enough."""

    def __init__(self, past: Iterable[Past]) -> None:
        self._rates: dict[Hashable, list[float]] = defaultdict(list)
        for one in past:
            if one.seconds is not None:
                for group in _groups(one.kind):
                    self._rates[group].append(one.seconds / _unit(one.kind))

    def __bool__(self) -> bool:
        return bool(self._rates)

    def rates(self, kind: Kind) -> Sequence[float]:
        """Seconds a unit of work, one of each attempt; none where nothing is known."""
        groups = _groups(kind)
        enough = (self._rates[one] for one in groups if len(self._rates.get(one, ())) >= _ENOUGH)
        return next(enough, self._rates.get(groups[-1], self._rates.get((), [])))

    def duration_s(self, kind: Kind, random: Random) -> float:
        """There must be some experience."""
        return random.choice(self.rates(kind)) * _unit(kind)

    def left_s(self, kind: Kind, elapsed_s: float, random: Random) -> float:
        """Of an attempt that has lasted so long already."""
        unit = _unit(kind)
        longer = [rate * unit for rate in self.rates(kind) if rate * unit > elapsed_s]
        if longer:
            return random.choice(longer) - elapsed_s
        return elapsed_s * math.exp(random.gauss(-1.0, 1.0))


def _groups(kind: Kind) -> list[Hashable]:
    """From the nearest kin to all. Those whose work is known are no kin of the others: their rates
    are of another unit."""
    known, project = kind.work > 0, kind.line.project
    return [
        (known, project, kind.base_model, kind.method),
        (known, project),
        (known, kind.base_model, kind.method),
        (known,),
    ]


def _unit(kind: Kind) -> float:
    return kind.work or 1.0
