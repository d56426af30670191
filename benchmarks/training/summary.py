"""Tables of what was measured: `python -m benchmarks.training.summary RESULTS`."""

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.training.results import SMOOTHED_STEPS, Measurement, read_results
from benchmarks.training.variants import VARIANTS

OURS = "anneal"
_LOSS_ROWS = 16

Runs = dict[str, list[Measurement]]
"""The rounds of each side."""


def summary(results: Sequence[Measurement]) -> str:
    """Markdown: for each size and number of threads the speeds, the ratios and the losses."""
    ordered = sorted(results, key=_setting)
    parts = [_section(setting, list(runs)) for setting, runs in groupby(ordered, _setting)]
    return "\n".join(line for part in parts for line in part)


def _setting(measurement: Measurement) -> tuple[str, int]:
    return measurement.size, measurement.threads


def _section(setting: tuple[str, int], measured: list[Measurement]) -> list[str]:
    size, threads = setting
    runs: Runs = {
        name: mine for name in VARIANTS if (mine := [m for m in measured if m.variant == name])
    }
    rounds = max(map(len, runs.values()))
    peak = _peak_gflops(measured)
    return [
        f"\n### {size}, {threads} thread(s), {rounds} round(s)\n",
        f"One core multiplies at most {peak:,.0f} GFLOP/s in bf16.\n",
        *_speeds(runs, peak, threads),
        *_ratios(runs),
        *_losses(runs),
    ]


def _peak_gflops(measured: Iterable[Measurement]) -> float:
    """The highest, so that shares of it are not too high."""
    return max(m.peak_gflops for m in measured)


def _speeds(runs: Runs, peak_gflops: float, cores: int) -> list[str]:
    """The first share is of what all cores could have done in the time that passed, the second of
    what they could have done in the time they gave."""
    lines = [
        "| | tokens/s | min to max | median step | tokens/CPU-s | min to max "
        "| of bf16 peak | by CPU time | peak RSS MiB | tokens/step |",
        "| --- |" + " ---: |" * 9,
    ]
    for name, mine in runs.items():
        share = _median(mine, lambda m: m.useful_gflops_per_s) / (peak_gflops * cores)
        busy_share = _median(mine, lambda m: m.useful_gflops_per_cpu_s) / peak_gflops
        lines.append(
            f"| {name} | {_median_and_range(mine, lambda m: m.tokens_per_s)} "
            f"| {_median(mine, lambda m: m.median_step_tokens_per_s):,.0f} "
            f"| {_median_and_range(mine, lambda m: m.tokens_per_cpu_s)} "
            f"| {share:.0%} | {busy_share:.0%} "
            f"| {_median(mine, lambda m: m.peak_rss_bytes) / 2**20:,.0f} "
            f"| {_median(mine, lambda m: m.tokens_per_step):,.0f} |"
        )
    return [*lines, ""]


def _ratios(runs: Runs) -> list[str]:
    """Of the medians of two sides that took turns."""
    if OURS not in runs or len(runs) == 1:
        return []
    lines = [
        f"| {OURS} ÷ | tokens/s | median step | tokens/CPU-s | peak RSS |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, theirs in runs.items():
        if name != OURS:
            lines.append(f"| {name} | {' | '.join(_ratio(runs[OURS], theirs))} |")
    return [*lines, ""]


def _ratio(ours: list[Measurement], theirs: list[Measurement]) -> list[str]:
    measures: list[Callable[[Measurement], float]] = [
        lambda m: m.tokens_per_s,
        lambda m: m.median_step_tokens_per_s,
        lambda m: m.tokens_per_cpu_s,
        lambda m: m.peak_rss_bytes,
    ]
    return [f"{_median(ours, of) / _median(theirs, of):.2f}" for of in measures]


def _losses(runs: Runs) -> list[str]:
    """The loss of the ten steps up to each shown one, the mean of the rounds that came so far,
    each of another seed."""
    longest = max(len(m.losses) for mine in runs.values() for m in mine)
    if longest == 0:
        return []
    every = -(-longest // _LOSS_ROWS)
    lines = [f"| loss at step | {' | '.join(runs)} |", "| ---: |" + " ---: |" * len(runs)]
    for index in range(every - 1, longest, every):
        cells = " | ".join(_loss(mine, index) for mine in runs.values())
        lines.append(f"| {(index + 1) * SMOOTHED_STEPS} | {cells} |")
    return [*lines, ""]


def _loss(mine: list[Measurement], index: int) -> str:
    reached = [m.losses[index] for m in mine if index < len(m.losses)]
    return f"{statistics.fmean(reached):.3f}" if reached else "—"


def _median(mine: list[Measurement], of: Callable[[Measurement], float]) -> float:
    return statistics.median(map(of, mine))


def _median_and_range(mine: list[Measurement], of: Callable[[Measurement], float]) -> str:
    values = list(map(of, mine))
    return f"{statistics.median(values):,.0f} | {min(values):,.0f} to {max(values):,.0f}"


if __name__ == "__main__":
    print(summary(read_results(Path(sys.argv[1]))))
