"""The attempts of a job: who held its lease, and how that ended."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.trainer.control.domain.endings import Ending, Failure, mark_of
from services.trainer.control.domain.names import TuningJobName

COMPLETED = "COMPLETED"


@dataclass(frozen=True)
class Attempt:
    """One lease. `outcome` is a Cause or COMPLETED, empty while it lasts; `mark` tells a repeated
    ending from another one; `start_step` is the step it began after (None: its engine has not
    said), `step` the last that was heard of."""

    job: TuningJobName
    number: int
    node: str
    request_id: str
    start_time: datetime
    start_step: int | None = None
    step: int = 0
    end_time: datetime | None = None
    outcome: str = ""
    message: str = ""
    mark: str = ""

    @property
    def steps(self) -> int:
        """How many it did."""
        return max(0, self.step - (self.start_step or 0))

    def ended(self, ending: Ending, now: datetime) -> "Attempt":
        failed = isinstance(ending, Failure)
        return replace(
            self,
            end_time=now,
            outcome=ending.cause if failed else COMPLETED,
            message=ending.message if failed else "",
            mark=mark_of(ending),
        )

    def ended_with(self, ending: Ending) -> bool:
        return self.mark == mark_of(ending)


@dataclass(frozen=True)
class Told:
    """An attempt, and how many of its steps an earlier one had done before."""

    attempt: Attempt
    redone_steps: int


def told(attempts: Sequence[Attempt]) -> list[Told]:
    """Of all attempts of a job in their order."""
    found: list[Told] = []
    furthest = 0
    for one in attempts:
        redone = min(one.step, furthest) - (one.start_step or 0)
        found.append(Told(one, max(0, redone)))
        furthest = max(furthest, one.step)
    return found
