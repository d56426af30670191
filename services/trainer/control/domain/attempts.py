"""The attempts of a job: who held its lease, and how that ended."""

from dataclasses import dataclass, replace
from datetime import datetime

from services.trainer.control.domain.endings import Ending, Failure, mark_of
from services.trainer.control.domain.names import TuningJobName

COMPLETED = "COMPLETED"


@dataclass(frozen=True)
class Attempt:
    """One lease. `outcome` is a Cause or COMPLETED, empty while it lasts; `mark` tells a repeated
    ending from another one; `step` is the last that a heartbeat told."""

    job: TuningJobName
    number: int
    node: str
    request_id: str
    start_time: datetime
    step: int = 0
    end_time: datetime | None = None
    outcome: str = ""
    message: str = ""
    mark: str = ""

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
