"""What is made of the measurements."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.training.results import Measurement, append_result, read_results
from benchmarks.training.summary import summary
from benchmarks.training.variants import VARIANTS, in_turn

Make = Callable[..., Measurement]


def cells(text: str, first: str) -> list[list[str]]:
    """The table rows that begin with this cell."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [row for row in rows if row and row[0] == first]


def test_a_side_is_told_by_its_median_its_range_and_its_share_of_the_peak(
    measurement: Make,
) -> None:
    runs = [measurement(round=i, tokens=tokens) for i, tokens in enumerate((1000, 4000, 2000))]
    [row, *_] = cells(summary(runs), "anneal")
    assert row == [
        "anneal", "200", "100 to 400", "100", "100", "50 to 200", "10%", "10%", "1", "200",
    ]  # fmt: skip


def test_the_share_is_of_all_cores_at_the_highest_peak_seen(measurement: Make) -> None:
    runs = [measurement(round=0, threads=1), measurement(round=1, threads=1, peak_gflops=2.0)]
    assert cells(summary(runs), "anneal")[0][6] == "5%"


def test_the_share_by_processor_time_leaves_out_when_cores_did_other_work(
    measurement: Make,
) -> None:
    [row, *_] = cells(summary([measurement(cpu_s=5.0)]), "anneal")
    assert row[6:8] == ["5%", "20%"]


def test_a_ratio_is_of_the_medians_of_both_sides(measurement: Make) -> None:
    runs = [
        *(measurement(round=i, tokens=tokens) for i, tokens in enumerate((1000, 3000, 9000))),
        *(measurement(round=i, variant="hf", tokens=1000, cpu_s=5.0) for i in range(3)),
    ]
    assert cells(summary(runs), "hf")[1] == ["hf", "3.00", "1.00", "0.75", "1.00"]


def test_without_our_engine_there_are_no_ratios(measurement: Make) -> None:
    assert "÷" not in summary([measurement(variant="hf"), measurement(variant="trl_best")])


def test_losses_lie_over_each_other_by_step_and_who_came_less_far_has_a_dash(
    measurement: Make,
) -> None:
    runs = [
        measurement(losses=[9.0, 8.0]),
        measurement(round=1, losses=[9.2, 8.0]),
        measurement(variant="hf", losses=[9.5]),
    ]
    text = summary(runs)
    assert cells(text, "10") == [["10", "9.100", "9.500"]]
    assert cells(text, "20") == [["20", "8.000", "—"]]


def test_sizes_and_threads_are_told_apart(measurement: Make) -> None:
    runs = [measurement(), measurement(threads=1), measurement(size="110m")]
    titles = [line for line in summary(runs).splitlines() if line.startswith("###")]
    assert titles == [
        "### 110m, 2 thread(s), 1 round(s)",
        "### 14m, 1 thread(s), 1 round(s)",
        "### 14m, 2 thread(s), 1 round(s)",
    ]


def test_results_are_read_as_they_were_written(measurement: Make, tmp_path: Path) -> None:
    runs = [measurement(), measurement(variant="hf", losses=[])]
    for run in runs:
        append_result(tmp_path / "results.jsonl", run)
    assert read_results(tmp_path / "results.jsonl") == runs


@pytest.mark.parametrize(("number", "order"), [(0, "abc"), (1, "cba"), (2, "abc")])
def test_sides_take_turns_and_turn_round(number: int, order: str) -> None:
    sides = dict(zip("abc", VARIANTS.values(), strict=False))
    turns = in_turn(list(sides.values()), number)
    assert turns == [sides[letter] for letter in order]
