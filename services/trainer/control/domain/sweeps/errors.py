"""What sweeps refuse, and why."""

from typing import TypeVar

from services.common.faults import AlreadyExists, FailedPrecondition, NotFound
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


class WrongSweepState(FailedPrecondition):
    """The sweep can not go there from where it stands."""

    def __init__(self, name: TuningSweepName, state: str, to: str) -> None:
        super().__init__(
            "WRONG_STATE",
            f"{name} is {state} and can not become {to}",
            resource=name,
            state=state,
            to=to,
        )


def existing_sweep(name: TuningSweepName, sweep: T | None) -> T:
    """The sweep that was found. Raises TuningSweepNotFound if none was."""
    if sweep is None:
        raise TuningSweepNotFound(name)
    return sweep
