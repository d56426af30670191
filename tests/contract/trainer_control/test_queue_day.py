"""A short day of the queue (`python -m benchmarks.queue day` is the long one): the real code on a
real database, under a clock that the test drives."""

import pytest

from benchmarks.queue_day import Day, Figures, simulated
from services.trainer.control.domain.queue.requirements import Priority

SHORT = Day(
    jobs=120,
    projects=6,
    nodes=6,
    hours=3.0,
    swing=0.0,
    contention_s=1800.0,
    beat_s=900.0,
    forecast_every_s=1200.0,
    forecasts_at_once=20,
)


@pytest.mark.timeout(240)
async def test_a_day_is_fair_starves_nobody_loses_no_step_and_goes_as_it_was_forecast(
    sqlite_url: str,
) -> None:
    figures = await simulated(SHORT, sqlite_url)

    assert started(figures) == SHORT.jobs
    assert figures.fairness >= 0.95
    assert (figures.preemptions > 0, figures.lost_s) == (True, 0)
    assert figures.longest_wait_s(Priority.URGENT) < 60
    assert figures.longest_wait_s(Priority.HIGH) < figures.longest_wait_s(Priority.NORMAL)
    assert figures.longest_wait_s(Priority.NORMAL) < SHORT.hours * 3600
    assert figures.told >= 40
    assert 0.6 <= figures.calibration <= 0.97


def started(figures: Figures) -> int:
    return sum(len(waits) for waits in figures.waits.values())
