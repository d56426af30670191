"""Votes, and what they add up to."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from services.abtest.domain.blinding import Sides
from services.abtest.domain.experiment import Arm, Experiment
from services.abtest.domain.names import PairName, ReportName
from services.abtest.domain.statistics import Interval, confidence_interval
from services.common.faults import Violation

VOTER_RULE = "1-63 characters of letters, digits, '.', '_', '@', '+' and '-'"
_VOTER = re.compile(r"[A-Za-z0-9._@+-]{1,63}")


class Choice(StrEnum):
    """What a voter found better."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both_bad"


class Verdict(StrEnum):
    """What can be said, however often one looks."""

    INCONCLUSIVE = "inconclusive"
    CANDIDATE_BETTER = "candidate_better"
    BASELINE_BETTER = "baseline_better"


@dataclass(frozen=True)
class Judgement:
    """One voter's vote on one prompt. `left` is the arm that stood there; `first_time` is when
    the voter first judged this prompt, `time` when last."""

    prompt: int
    voter: str
    choice: Choice
    left: Arm
    first_time: datetime
    time: datetime

    @property
    def winner(self) -> Arm | None:
        match self.choice:
            case Choice.LEFT:
                return self.left
            case Choice.RIGHT:
                return self.left.other
            case Choice.TIE | Choice.BOTH_BAD:
                return None
            case _:
                assert_never(self.choice)

    @property
    def score(self) -> float:
        """1 for the candidate, 0 for the baseline, 1/2 for neither."""
        return 0.5 if self.winner is None else float(self.winner is Arm.CANDIDATE)


@dataclass(frozen=True)
class CastVote:
    """A vote that is in, with the models revealed."""

    pair: PairName
    voter: str
    choice: Choice
    left_model: str
    right_model: str
    replaced: bool
    time: datetime


@dataclass(frozen=True)
class Report:
    """What the votes of an experiment say so far; the counts are of votes, from the candidate's
    side. `win_rate` and `left_rate` are None while there is nothing to divide by."""

    name: ReportName
    baseline: str
    candidate: str
    wins: int
    losses: int
    ties: int
    both_bad: int
    win_rate: float | None
    left_rate: float | None
    interval: Interval
    verdict: Verdict
    prompt_count: int
    voter_count: int


def voter_violations(voter: str) -> Iterable[Violation]:
    if _VOTER.fullmatch(voter) is None:
        yield Violation("voter", f"{voter[:100]!r} is no voter: {VOTER_RULE}", "INVALID_VOTER")


def reveal(experiment: Experiment, sides: Sides) -> tuple[str, str]:
    """The models on the left and on the right."""
    return experiment.model_of(sides.left), experiment.model_of(sides.right)


def report(experiment: Experiment, judgements: Sequence[Judgement]) -> Report:
    """Every vote counts in the win rate; for the interval, the people who judged one prompt count
    as one, for they are not independent of each other."""
    winners = [judgement.winner for judgement in judgements]
    wins, losses = winners.count(Arm.CANDIDATE), winners.count(Arm.BASELINE)
    choices = [judgement.choice for judgement in judgements]
    scores = prompt_scores(judgements)
    interval = confidence_interval(scores)
    return Report(
        name=experiment.name.report(),
        baseline=experiment.baseline,
        candidate=experiment.candidate,
        wins=wins,
        losses=losses,
        ties=choices.count(Choice.TIE),
        both_bad=choices.count(Choice.BOTH_BAD),
        win_rate=_ratio(2 * wins + winners.count(None), 2 * len(winners)),
        left_rate=_ratio(choices.count(Choice.LEFT), wins + losses),
        interval=interval,
        verdict=verdict(interval),
        prompt_count=len(scores),
        voter_count=len({judgement.voter for judgement in judgements}),
    )


def prompt_scores(judgements: Sequence[Judgement]) -> list[float]:
    """The mean score of each judged prompt, in the order in which they were first judged."""
    by_prompt: dict[int, list[float]] = {}
    for judgement in sorted(judgements, key=lambda one: (one.first_time, one.prompt)):
        by_prompt.setdefault(judgement.prompt, []).append(judgement.score)
    return [sum(scores) / len(scores) for scores in by_prompt.values()]


def verdict(interval: Interval) -> Verdict:
    if interval.lower > 0.5:
        return Verdict.CANDIDATE_BETTER
    return Verdict.BASELINE_BETTER if interval.upper < 0.5 else Verdict.INCONCLUSIVE


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
