"""What was measured, one JSON object a line."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.training.observation import WARM_UP_STEPS, Observation, Step

SMOOTHED_STEPS = 10
"""Losses are means over so many steps."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one side. Tokens are those without padding, counted after the warm-up.

    `losses` are means over ten steps each, from the first step on; `flops_per_token` is the work
    that this training cannot do without; `peak_gflops` what one core can do, measured in the same
    round; `load` the machine's load average (1 min) before.
    """

    variant: str
    size: str
    threads: int
    round: int
    steps: int
    tokens: int
    wall_s: float
    cpu_s: float
    median_step_tokens_per_s: float
    peak_rss_bytes: int
    losses: list[float]
    flops_per_token: float
    peak_gflops: float
    load: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.wall_s

    @property
    def tokens_per_cpu_s(self) -> float:
        return self.tokens / self.cpu_s

    @property
    def tokens_per_step(self) -> float:
        return self.tokens / self.steps

    @property
    def useful_gflops_per_s(self) -> float:
        return self.tokens_per_s * self.flops_per_token / 1e9

    @property
    def useful_gflops_per_cpu_s(self) -> float:
        return self.tokens_per_cpu_s * self.flops_per_token / 1e9


@dataclass(frozen=True, slots=True)
class Speed:
    """Of the steps after the warm-up."""

    steps: int
    tokens: int
    wall_s: float
    median_step_tokens_per_s: float


def speed(observation: Observation) -> Speed:
    last_of_warm_up, *watched = observation.steps[WARM_UP_STEPS - 1 :]
    return Speed(
        steps=len(watched),
        tokens=sum(step.tokens for step in watched),
        wall_s=watched[-1].time_s - last_of_warm_up.time_s,
        median_step_tokens_per_s=statistics.median(_rates([last_of_warm_up, *watched])),
    )


def smoothed(losses: Sequence[float]) -> list[float]:
    """The mean of each ten losses; a rest of fewer is left out."""
    last = len(losses) - len(losses) % SMOOTHED_STEPS
    groups = (losses[i : i + SMOOTHED_STEPS] for i in range(0, last, SMOOTHED_STEPS))
    return [statistics.fmean(group) for group in groups]


def append_result(path: Path, measurement: Measurement) -> None:
    with path.open("a", encoding="utf-8") as results:
        results.write(json.dumps(asdict(measurement)) + "\n")


def read_results(path: Path) -> list[Measurement]:
    with path.open(encoding="utf-8") as results:
        return [Measurement(**json.loads(line)) for line in results]


def _rates(steps: Sequence[Step]) -> list[float]:
    return [step.tokens / (step.time_s - before.time_s) for before, step in pairwise(steps)]
