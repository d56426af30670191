"""What votes add up to."""

from datetime import UTC, datetime, timedelta

import pytest

from services.abtest.domain.experiment import Arm, Experiment
from services.abtest.domain.statistics import Interval
from services.abtest.domain.voting import (
    Choice,
    Judgement,
    Verdict,
    prompt_scores,
    report,
    verdict,
    voter_violations,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def judged(prompt: int, choice: Choice, voter: str = "ada", at_s: float = 0) -> Judgement:
    """The candidate is on the left."""
    time = START + timedelta(seconds=at_s)
    return Judgement(prompt, voter, choice, Arm.CANDIDATE, first_time=time, time=time)


def test_twelve_wins_five_losses_and_three_ties_are_exactly_67_and_a_half_percent(
    experiment: Experiment,
) -> None:
    order = "WWLWTWWLWWTWLWWLWTLW"
    choices = [{"W": Choice.LEFT, "L": Choice.RIGHT, "T": Choice.TIE}[one] for one in order]
    votes = [judged(prompt, choice, at_s=prompt) for prompt, choice in enumerate(choices)]

    result = report(experiment, votes)

    assert (result.wins, result.losses, result.ties, result.both_bad) == (12, 5, 3, 0)
    assert result.win_rate == 0.675
    assert (result.interval.lower, result.interval.upper) == (0.397, 0.921)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert (result.prompt_count, result.voter_count) == (20, 1)


def test_ten_wins_in_a_row_are_proof_and_a_later_loss_does_not_take_it_back(
    experiment: Experiment,
) -> None:
    wins = [judged(prompt, Choice.LEFT, at_s=prompt) for prompt in range(10)]

    for votes in (wins, [*wins, judged(10, Choice.RIGHT, at_s=10)]):
        assert report(experiment, votes).verdict is Verdict.CANDIDATE_BETTER


def test_both_bad_counts_as_a_tie_in_the_rate_and_is_reported_by_itself(
    experiment: Experiment,
) -> None:
    result = report(experiment, [judged(0, Choice.LEFT), judged(1, Choice.BOTH_BAD)])

    assert (result.ties, result.both_bad, result.win_rate) == (0, 1, 0.75)


def test_without_votes_nothing_is_claimed(experiment: Experiment) -> None:
    result = report(experiment, [])

    assert (result.win_rate, result.left_rate) == (None, None)
    assert (result.interval.lower, result.interval.upper) == (0.0, 1.0)
    assert result.verdict is Verdict.INCONCLUSIVE


def test_the_left_rate_is_of_decisive_votes_only(experiment: Experiment) -> None:
    choices = [Choice.LEFT, Choice.LEFT, Choice.LEFT, Choice.RIGHT, Choice.TIE, Choice.BOTH_BAD]

    result = report(experiment, [judged(n, choice) for n, choice in enumerate(choices)])

    assert result.left_rate == 0.75


def test_who_stood_on_the_left_decides_who_won() -> None:
    baseline_left = Judgement(0, "ada", Choice.LEFT, Arm.BASELINE, START, START)

    assert baseline_left.winner is Arm.BASELINE
    assert baseline_left.score == 0.0


def test_a_prompt_counts_once_however_many_judged_it(experiment: Experiment) -> None:
    votes = [
        judged(0, Choice.LEFT, "ada"),
        judged(0, Choice.RIGHT, "bob"),
        judged(0, Choice.TIE, "cyd"),
        judged(0, Choice.LEFT, "dan"),
    ]

    result = report(experiment, votes)

    assert prompt_scores(votes) == [0.625]
    assert (result.prompt_count, result.voter_count) == (1, 4)
    assert result.win_rate == 0.625


def test_prompts_count_in_the_order_in_which_they_were_first_judged() -> None:
    votes = [
        judged(5, Choice.RIGHT, "bob", at_s=9),
        judged(3, Choice.LEFT, at_s=2),
        judged(5, Choice.TIE, at_s=1),
    ]

    assert prompt_scores(votes) == [0.25, 1.0]


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (0.501, 0.9, Verdict.CANDIDATE_BETTER),
        (0.5, 0.9, Verdict.INCONCLUSIVE),
        (0.1, 0.5, Verdict.INCONCLUSIVE),
        (0.1, 0.499, Verdict.BASELINE_BETTER),
    ],
)
def test_the_verdict_needs_the_whole_interval(
    lower: float, upper: float, expected: Verdict
) -> None:
    assert verdict(Interval(lower, upper, 0.95)) is expected


@pytest.mark.parametrize("voter", ["ada", "Ada.L-1_x+y@example.org", "a" * 63])
def test_these_are_voters(voter: str) -> None:
    assert not list(voter_violations(voter))


@pytest.mark.parametrize("voter", ["", "a" * 64, "ada lovelace", "ada\n", "ädä", "a/b", "a\0"])
def test_these_are_no_voters(voter: str) -> None:
    assert [violation.field for violation in voter_violations(voter)] == ["voter"]
