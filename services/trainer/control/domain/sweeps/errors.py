"""What sweeps refuse, and why."""

from typing import TypeVar

from services.common.faults import AlreadyExists, NotFound
from services.trainer.control.domain.names import TuningSweepName

T = TypeVar("T")


class TuningSweepNotFound(NotFound):
    def __init__(self, name: TuningSweepName) -> None:
        super().__init__(name)
        self.reason = "TUNING_SWEEP_NOT_FOUND"


class TuningSweepExists(AlreadyExists):
    def __init__(self, name: TuningSweepName) -> None:
        super().__init__(name)
        self.reason = "TUNING_SWEEP_EXISTS"


def existing_sweep(name: TuningSweepName, sweep: T | None) -> T:
    """The sweep that was found. Raises TuningSweepNotFound if none was."""
    if sweep is None:
        raise TuningSweepNotFound(name)
    return sweep
