"""The learning rate over a run."""

from collections.abc import Callable

import pytest

from services.trainer.engine.job import Job
from services.trainer.engine.schedule import learning_rate

Rates = Callable[[str, int, int], list[float]]


@pytest.fixture
def rates(make_job: Callable[..., Job]) -> Rates:
    """All rates of a run with a peak of 1, by schedule, warm-up and number of steps."""

    def all_rates(schedule: str, warmup: int, total: int) -> list[float]:
        changes = {"schedule": schedule, "warmup_steps": warmup, "learning_rate": 1.0}
        training = make_job(changes).training
        return [learning_rate(step, total, training) for step in range(1, total + 1)]

    return all_rates


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_evenly_to_its_peak_in_the_warm_up(rates: Rates, schedule: str) -> None:
    assert rates(schedule, 4, 10)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_cosine_and_linear_fall_and_end_above_zero(rates: Rates) -> None:
    for schedule in ("cosine", "linear"):
        falling = rates(schedule, 0, 50)
        assert falling == sorted(falling, reverse=True)
        assert falling[0] == 1.0
        assert 0 < falling[-1] < 0.03
    assert rates("linear", 0, 4) == [1.0, 0.75, 0.5, 0.25]
    assert rates("cosine", 0, 2) == pytest.approx([1.0, 0.5])


def test_constant_stays_and_a_warm_up_may_outlast_the_run(rates: Rates) -> None:
    assert rates("constant", 1, 5) == [1.0] * 5
    assert rates("cosine", 8, 4) == [0.125, 0.25, 0.375, 0.5]
