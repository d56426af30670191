"""Watching a training process from outside."""

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.training.observation import (
    WARM_UP_STEPS,
    DatasetSize,
    MeasurementFailed,
    Observation,
    Step,
    Window,
    observe,
)
from benchmarks.training.results import smoothed, speed

DATASET = DatasetSize(tokens=1000, labels=600)
STARTED = {"type": "started", "tokens_per_epoch": 1000, "labels_per_epoch": 600}
WINDOW = Window(seconds=0.3, cycle_steps=1, limit_s=30)


def trainer(started: dict[str, object], body: str) -> list[str]:
    """A process that reports this start, and then does what `body` says."""
    code = f"""
import json, sys, time
def say(**fields): print(json.dumps(fields), flush=True)
say(**{started!r})
{body}
"""
    return [sys.executable, "-c", code]


TRAINS = """
step = 0
while True:
    step += 1
    began = time.process_time()
    while time.process_time() - began < 0.02: pass
    say(type="log", message="between the steps")
    say(type="step", step=step, tokens=100, loss=1 / step)
"""


def test_steps_are_clocked_until_the_time_is_over_and_the_process_is_ended(log_file: Path) -> None:
    seen = observe(trainer(STARTED, TRAINS), os.environ, WINDOW, DATASET, log_file)
    watched = len(seen.steps) - WARM_UP_STEPS
    assert watched > 1
    assert seen.steps[-1].time_s - seen.steps[WARM_UP_STEPS - 1].time_s >= 0.3
    assert seen.steps[2] == Step(seen.steps[2].time_s, 100, 1 / 3)
    assert 0.02 * watched * 0.5 < seen.cpu_s < 0.02 * watched * 2 + 0.1
    assert 2**20 < seen.peak_rss_bytes < 2**30


HELPER = """
import sys, time
held = bytearray(64 << 20)
sys.stdin.readline()
while time.process_time() < 0.5: pass
print(flush=True)
sys.stdin.read()
"""


def test_the_processor_time_and_memory_of_helper_processes_count(log_file: Path) -> None:
    body = f"""
from subprocess import PIPE, Popen
helper = Popen([sys.executable, "-c", {HELPER!r}], stdin=PIPE, stdout=PIPE, bufsize=0)
for step in range(1, {WARM_UP_STEPS} + 1):
    say(type="step", step=step, tokens=1, loss=0.0)
time.sleep(0.3)
helper.stdin.write(b"go on\\n")
helper.stdout.readline()
say(type="step", step=step + 1, tokens=1, loss=0.0)
time.sleep(60)
"""
    seen = observe(trainer(STARTED, body), os.environ, WINDOW, DATASET, log_file)
    assert seen.cpu_s > 0.2
    assert seen.peak_rss_bytes > 64 << 20


def test_a_process_that_ends_too_early_fails_with_its_last_words(log_file: Path) -> None:
    body = 'say(type="step", step=1, tokens=1, loss=0.0)\nsys.exit("no more data")'
    with pytest.raises(MeasurementFailed, match=r"(?s)after 1 steps.*no more data"):
        observe(trainer(STARTED, body), os.environ, WINDOW, DATASET, log_file)


def test_a_process_that_hangs_fails_at_the_limit(log_file: Path) -> None:
    window = Window(seconds=0.3, cycle_steps=1, limit_s=0.5)
    with pytest.raises(MeasurementFailed, match="hung"):
        observe(trainer(STARTED, "time.sleep(60)"), os.environ, window, DATASET, log_file)


@pytest.mark.parametrize("wrong", [{"tokens_per_epoch": 999}, {"labels_per_epoch": 1000}])
def test_a_process_that_trains_on_something_else_fails(
    log_file: Path, wrong: dict[str, object]
) -> None:
    started = {**STARTED, **wrong}
    with pytest.raises(MeasurementFailed, match=json.dumps(*wrong.values())):
        observe(trainer(started, TRAINS), os.environ, WINDOW, DATASET, log_file)


def test_a_window_ends_after_its_time_with_a_whole_cycle() -> None:
    window = Window(seconds=10, cycle_steps=50, limit_s=100)
    assert not window.is_over(steps=50, elapsed_s=9.9)
    assert not window.is_over(steps=99, elapsed_s=11)
    assert window.is_over(steps=100, elapsed_s=11)


def test_speed_leaves_the_warm_up_out_and_takes_the_median_of_the_steps() -> None:
    warm_up = [Step(float(i), 10**6, 9.0) for i in range(WARM_UP_STEPS)]
    ends_s = (1, 2, 12)  # seconds after the warm-up; the last step was disturbed
    watched = [Step(WARM_UP_STEPS - 1 + end, 100, 8.0) for end in ends_s]
    seen = speed(Observation((*warm_up, *watched), cpu_s=1.0, peak_rss_bytes=1))
    assert (seen.steps, seen.tokens, seen.wall_s) == (3, 300, 12.0)
    assert seen.median_step_tokens_per_s == 100


def test_losses_are_means_of_ten_and_a_rest_is_left_out() -> None:
    assert smoothed([1.0] * 5 + [3.0] * 5 + [7.0] * 10 + [100.0] * 9) == [2.0, 7.0]
