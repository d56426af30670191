"""How estimates learn from what runs took."""

import math
from datetime import UTC, datetime

import pytest

from services.trainer.control.domain.endings import Result
from services.trainer.control.domain.estimation.devices import Corrections
from services.trainer.control.domain.estimation.residuals import (
    Expected,
    Residual,
    Run,
    corrections,
    is_believed,
    residual,
)
from services.trainer.control.domain.names import TuningJobName

RUN = Run(TuningJobName("p", "j"), "lora", "A GPU", datetime(2026, 1, 1, tzinfo=UTC))
EXPECTED = Expected(peak_bytes=1000, tokens_per_second=100.0)


def result(**metrics: float) -> Result:
    return Result("ab" * 32, metrics={"steps": 50, **metrics})


def took(peak: float | None, duration: float | None) -> Residual:
    return Residual(RUN.job, RUN.method, RUN.device_model, peak, duration, RUN.time)


def test_a_ratio_is_what_was_over_what_was_expected() -> None:
    told = result(peak_memory_bytes=1200, tokens_per_second=50)

    assert residual(RUN, told, EXPECTED) == took(peak=1.2, duration=2.0)


def test_what_one_side_does_not_know_has_no_ratio() -> None:
    told = result(peak_memory_bytes=1200, tokens_per_second=50)

    assert residual(RUN, result(peak_memory_bytes=500), EXPECTED) == took(0.5, None)
    assert residual(RUN, told, Expected(0, 100.0)) == took(None, 2.0)
    assert residual(RUN, told, Expected(1000, 0)) == took(1.2, None)


@pytest.mark.parametrize("told", [0, -1, math.nan])
def test_a_run_of_which_nothing_can_be_compared_leaves_nothing(told: float) -> None:
    assert residual(RUN, result(training_loss=1.0), EXPECTED) is None
    assert residual(RUN, result(peak_memory_bytes=told, tokens_per_second=told), EXPECTED) is None


def test_of_a_short_run_the_speed_does_not_count() -> None:
    told = result(peak_memory_bytes=1200, tokens_per_second=50, steps=49)

    assert residual(RUN, told, EXPECTED) == took(1.2, None)
    assert residual(RUN, result(tokens_per_second=50, steps=10), EXPECTED) is None


def test_the_last_twenty_of_each_ratio_count() -> None:
    short, long = [took(1.5, None)] * 20, [took(1.1, 2.0)] * 25

    assert corrections([*short, *long]) == Corrections(1.5, 2.0, 40)


def test_without_runs_nothing_is_corrected() -> None:
    assert corrections([]) == Corrections(1.0, 1.0, 0)


def test_corrections_are_medians_so_that_one_odd_run_moves_little() -> None:
    runs = [took(1.1, 2.0), took(1.2, 2.1), took(1.3, 4.9)]

    assert corrections(runs) == Corrections(1.2, 2.1, 3)


def test_a_ratio_that_is_beyond_belief_does_not_count() -> None:
    runs = [took(1.1, 5.1), took(0.19, 3.0), took(None, 4.0), took(6.0, math.inf)]

    assert corrections(runs) == Corrections(1.1, 3.5, 3)


@pytest.mark.parametrize(
    ("ratio", "believed"),
    [(0.2, True), (5.0, True), (0.199, False), (5.001, False), (None, False), (math.nan, False)],
)
def test_ratios_are_believed_from_a_fifth_to_five(ratio: float | None, believed: bool) -> None:
    assert is_believed(ratio) is believed
