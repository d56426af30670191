"""What a node tells about its training, and how far that makes a job."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

from services.trainer.control.domain.names import TuningJobName

_PERCENT_BEFORE_STORED = 99.9


@dataclass(frozen=True)
class Started:
    """The engine has loaded everything and begins after `start_step`."""

    start_step: int
    total_steps: int


@dataclass(frozen=True)
class Resumed:
    """The engine goes on after `step`. The digests (sha256, hex) are of what the checkpoint holds
    and of what the engine has; `exact` says that they are equal, `environment_changes` what is
    another of that on which the last bits depend."""

    step: int
    checkpoint_digest: str
    restored_digest: str
    exact: bool
    environment_changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stepped:
    """An optimizer step was done. Losses in nats a labeled token."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    best_loss: float
    percent: float
    tokens_per_second: float
    eta_s: float


@dataclass(frozen=True)
class Evaluated:
    """The held-out examples were evaluated; loss in nats a labeled token."""

    loss: float


@dataclass(frozen=True)
class Remark:
    """An event that belongs into the history and changes no figure."""


Report = Started | Resumed | Stepped | Evaluated | Remark


@dataclass(frozen=True)
class Telemetry:
    """One event as a node published it: `number` counts from 1 within its attempt, `payload` is
    what the history keeps."""

    job: TuningJobName
    attempt: int
    number: int
    time: datetime
    report: Report
    payload: bytes

    @property
    def place(self) -> tuple[int, int]:
        """The attempt, and the number within it: what tells it from all others of its job."""
        return self.attempt, self.number


@dataclass(frozen=True)
class Progress:
    """How far a job is. Kept when an attempt ends; None: not known yet."""

    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    best_loss: float | None = None
    validation_loss: float | None = None
    percent: float = 0.0
    tokens_per_second: float = 0.0
    eta_s: float | None = None

    def after(self, report: Report) -> "Progress":
        match report:
            case Started():
                return self._begun(report)
            case Stepped():
                return replace(
                    self,
                    step=report.step,
                    total_steps=report.total_steps,
                    epoch=report.epoch,
                    loss=report.loss,
                    best_loss=report.best_loss,
                    percent=min(report.percent, _PERCENT_BEFORE_STORED),
                    tokens_per_second=report.tokens_per_second,
                    eta_s=report.eta_s,
                )
            case Evaluated():
                return replace(self, validation_loss=report.loss)
            case Resumed() | Remark():
                return self
            case _:
                assert_never(report)

    def _begun(self, report: Started) -> "Progress":
        """A later attempt repeats the steps since its checkpoint: the figures go back with it."""
        share = report.start_step / report.total_steps if report.total_steps else 0.0
        return replace(
            self,
            step=report.start_step,
            total_steps=report.total_steps,
            percent=min(100.0 * share, _PERCENT_BEFORE_STORED),
            eta_s=None,
        )

    def stored(self) -> "Progress":
        """The artifacts are stored: only now is it 100 %."""
        return replace(self, percent=100.0, eta_s=0.0)
