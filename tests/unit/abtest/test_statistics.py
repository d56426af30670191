"""The confidence sequence against known values, and against what it promises."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.abtest.domain.statistics import ALPHA, confidence_interval, evidence

# 12 wins, 5 losses, 3 ties in an order that the authors' own code (confseq.hedged_cs) was given.
VOTES = "WWLWTWWLWWTWLWWLWTLW"
SCORES = [{"W": 1.0, "L": 0.0, "T": 0.5}[vote] for vote in VOTES]


@pytest.mark.parametrize(
    ("scores", "lower", "upper"),
    [(SCORES, 0.397, 0.921), (SCORES * 5, 0.546, 0.811), ([], 0.0, 1.0)],
    ids=["20 votes", "100 votes", "none"],
)
def test_intervals_are_those_of_the_reference_implementation(
    scores: list[float], lower: float, upper: float
) -> None:
    interval = confidence_interval(scores)

    assert (interval.lower, interval.upper) == (lower, upper)
    assert interval.confidence == 0.95


def test_evidence_against_one_half_is_that_of_the_reference_implementation() -> None:
    assert evidence(SCORES)[-1] == pytest.approx(2.054702, abs=1e-6)
    assert evidence(SCORES * 5)[-1] == pytest.approx(221.494, abs=1e-3)


def test_the_first_sufficient_evidence_comes_with_the_47th_score() -> None:
    enough = np.flatnonzero(evidence(SCORES * 5) >= 1 / ALPHA)

    assert enough[0] + 1 == 47


def test_a_first_win_bets_as_the_formula_says() -> None:
    # λ₁ = √(2 ln 40 / (¼ · 1 · ln 2)) is cut to ½ / ½ = 1: (1 + 1 · ½) / 2.
    assert evidence([1.0]).tolist() == pytest.approx([0.75])


def test_looking_after_every_vote_errs_at_most_as_often_as_promised() -> None:
    random = np.random.default_rng(2026)
    outcomes = random.choice([1.0, 0.0, 0.5], p=[0.375, 0.375, 0.25], size=(1000, 200))

    wrong = np.mean([evidence(list(votes)).max() >= 1 / ALPHA for votes in outcomes])

    # 5 % and three standard errors of a thousand runs; the naive sign test errs in 32 %.
    assert 0.005 < wrong < ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 1000)


def test_a_clear_difference_is_found() -> None:
    random = np.random.default_rng(2026)
    outcomes = random.choice([1.0, 0.0, 0.5], p=[0.575, 0.175, 0.25], size=(200, 100))

    found = np.mean([confidence_interval(list(votes)).lower > 0.5 for votes in outcomes])

    assert found > 0.85


def test_the_interval_covers_the_true_rate_at_the_last_look() -> None:
    random = np.random.default_rng(7)
    outcomes = random.choice([1.0, 0.0, 0.5], p=[0.5, 0.25, 0.25], size=(200, 60))
    intervals = [confidence_interval(list(votes)) for votes in outcomes]

    covered = np.mean([one.lower <= 0.625 <= one.upper for one in intervals])

    assert covered > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 200)


def test_a_rate_that_moves_while_people_vote_leaves_an_interval_all_the_same() -> None:
    interval = confidence_interval([1.0] * 100 + [0.0] * 500)

    assert interval.lower < interval.upper


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), max_size=60))
@settings(max_examples=50, deadline=None)
def test_swapping_the_arms_mirrors_the_interval(scores: list[float]) -> None:
    interval = confidence_interval(scores)
    mirrored = confidence_interval([1 - score for score in scores])

    assert 0 <= interval.lower < interval.upper <= 1
    assert mirrored.lower == pytest.approx(1 - interval.upper, abs=2e-3)
    assert mirrored.upper == pytest.approx(1 - interval.lower, abs=2e-3)
