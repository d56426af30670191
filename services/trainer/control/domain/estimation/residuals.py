"""By how much the estimates missed what finished runs took, and how they learn from it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from statistics import median

from services.trainer.control.domain.endings import Result
from services.trainer.control.domain.estimation.devices import Corrections
from services.trainer.control.domain.names import TuningJobName

LAST_RUNS = 20
"""The engine changes, and with it what runs take."""
LEAST_RATIO, MOST_RATIO = 0.2, 5.0
"""A formula that is further off than this has met something else than it describes: a host shared
with others, or a run of seconds."""
LEAST_STEPS = 50
"""Of fewer steps the first ones, which are slow, are too large a part for a speed."""


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
    """None if nothing can be compared: the node or the formulas do not tell, or the run was too
    short to have a speed."""
    told, speed = result.metrics, None
    peak = _ratio(told.get("peak_memory_bytes", 0), expected.peak_bytes)
    if told.get("steps", 0) >= LEAST_STEPS:
        speed = _ratio(told.get("tokens_per_second", 0), expected.tokens_per_second)
    if peak is None and speed is None:
        return None
    duration = None if speed is None else 1 / speed
    return Residual(run.job, run.method, run.device_model, peak, duration, run.time)


def corrections(residuals: Sequence[Residual]) -> Corrections:
    """Of residuals, the newest first: the medians of the last ratios to be believed; `runs` counts
    the runs that gave one at least."""
    peaks = _last(one.peak_ratio for one in residuals)
    durations = _last(one.duration_ratio for one in residuals)
    return Corrections(
        peak_ratio=median(peaks.values()) if peaks else 1.0,
        duration_ratio=median(durations.values()) if durations else 1.0,
        runs=len(peaks.keys() | durations.keys()),
    )


def _last(ratios: Iterable[float | None]) -> Mapping[int, float]:
    """The first ones that are to be believed, each with its place."""
    believed = (
        (place, ratio)
        for place, ratio in enumerate(ratios)
        if ratio is not None and is_believed(ratio)
    )
    return dict(islice(believed, LAST_RUNS))


def is_believed(ratio: float | None) -> bool:
    return ratio is not None and LEAST_RATIO <= ratio <= MOST_RATIO


def _ratio(actual: float, estimated: float) -> float | None:
    """Also of a metric that is no number."""
    return actual / estimated if actual > 0 and estimated > 0 else None
