"""By how much the estimates missed what finished runs took, and how they learn from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from services.trainer.control.domain.endings import Result
from services.trainer.control.domain.estimation.devices import Corrections
from services.trainer.control.domain.names import TuningJobName

LAST_RUNS = 20
"""The engine changes, and with it what runs take."""
LEAST_RATIO, MOST_RATIO = 0.2, 5.0
"""A formula that is further off than this has met something else than it describes: a host shared
with others, or a run of seconds."""


@dataclass(frozen=True)
class Expected:
    """What the formulas alone said of a run; 0: they could not tell."""

    peak_bytes: int
    tokens_per_second: float


@dataclass(frozen=True)
class Residual:
    """Of a finished run: actual / estimated; None where either is not known."""

    job: TuningJobName
    method: str
    device_model: str
    peak_ratio: float | None
    duration_ratio: float | None
    time: datetime


@dataclass(frozen=True)
class Run:
    """A job that has succeeded at `time`, and the device that it ran on."""

    job: TuningJobName
    method: str
    device_model: str
    time: datetime


def residual(run: Run, result: Result, expected: Expected) -> Residual | None:
    """None if nothing can be compared: the node or the formulas do not tell."""
    peak = _ratio(result.metrics.get("peak_memory_bytes", 0), expected.peak_bytes)
    speed = _ratio(result.metrics.get("tokens_per_second", 0), expected.tokens_per_second)
    if peak is None and speed is None:
        return None
    duration = None if speed is None else 1 / speed
    return Residual(run.job, run.method, run.device_model, peak, duration, run.time)


def corrections(residuals: Sequence[Residual]) -> Corrections:
    """The medians of the ratios to be believed; `runs` counts the runs that gave one at least."""
    peaks = [one.peak_ratio for one in residuals if is_believed(one.peak_ratio)]
    durations = [one.duration_ratio for one in residuals if is_believed(one.duration_ratio)]
    return Corrections(
        peak_ratio=median(filter(None, peaks)) if peaks else 1.0,
        duration_ratio=median(filter(None, durations)) if durations else 1.0,
        runs=sum(
            is_believed(one.peak_ratio) or is_believed(one.duration_ratio) for one in residuals
        ),
    )


def is_believed(ratio: float | None) -> bool:
    return ratio is not None and LEAST_RATIO <= ratio <= MOST_RATIO


def _ratio(actual: float, estimated: float) -> float | None:
    """Also of a metric that is no number."""
    return actual / estimated if actual > 0 and estimated > 0 else None
