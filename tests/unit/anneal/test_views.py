"""How events, sizes and keys are shown and read."""

import io
import math
import time

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from anneal.cli.keyboard import key_of
from anneal.cli.printing import duration, size
from anneal.cli.watching import LiveBar, PlainLines, lines_of
from anneal.errors import DeadlineExceeded
from anneal.trainer.v1.tuning_job_pb2 import (
    Checkpoint,
    Evaluation,
    LogLine,
    Sample,
    Samples,
    StateChange,
    TrainingRelieved,
    TrainingResumed,
    TrainingStarted,
    TrainingStep,
    TuningJob,
    TuningJobEvent,
)
from anneal.waiting import Deadline, Patience


def step(number: int, at_s: float) -> TuningJobEvent:
    return TuningJobEvent(
        sequence=number,
        time=Timestamp(seconds=int(at_s), nanos=int(at_s % 1 * 1e9)),
        step=TrainingStep(
            step=number,
            total_steps=200,
            loss=2.5,
            best_loss=2.25,
            epoch=0.5,
            tokens_per_second=1234.4,
            eta=Duration(seconds=75),
        ),
    )


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            step(10, 0),
            "step 10/200  loss 2.5000  best 2.2500  epoch 0.50  1,234 tokens/s  ETA 1:15",
        ),
        (
            TuningJobEvent(
                attempt=2,
                state_change=StateChange(to=TuningJob.STATE_QUEUED, cause="the engine was killed"),
            ),
            "QUEUED (attempt 2): the engine was killed",
        ),
        (
            TuningJobEvent(state_change=StateChange(to=TuningJob.STATE_PAUSING)),
            "PAUSING: stops after its step, with a checkpoint",
        ),
        (
            TuningJobEvent(
                attempt=2,
                state_change=StateChange(to=TuningJob.STATE_PAUSED, cause="the engine failed"),
            ),
            "PAUSED (attempt 2): the engine failed; waits until it is resumed",
        ),
        (
            TuningJobEvent(
                started=TrainingStarted(
                    start_step=50,
                    total_steps=200,
                    training_examples=270,
                    validation_examples=30,
                    trainable_parameters=4096,
                    total_parameters=1_000_000,
                )
            ),
            "learning from 270 examples, 30 held out; 4,096 of 1,000,000 parameters change; "
            "200 steps, resumed after step 50",
        ),
        (
            TuningJobEvent(evaluation=Evaluation(step=50, loss=1.5, token_accuracy=0.625)),
            "held-out loss 1.5000 after step 50, token accuracy 62.5%",
        ),
        (
            TuningJobEvent(checkpoint=Checkpoint(step=50, size_bytes=1_200_000)),
            "checkpoint after step 50, 1.2 MB",
        ),
        (
            TuningJobEvent(
                resumed=TrainingResumed(step=50, restored_digest="0123456789abcdef", exact=True)
            ),
            "goes on after step 50 with exactly what the checkpoint held (sha256 0123456789ab…)",
        ),
        (
            TuningJobEvent(resumed=TrainingResumed(step=50, restored_digest="0123456789abcdef")),
            "warning: goes on after step 50 with not what the checkpoint held "
            "(sha256 0123456789ab…)",
        ),
        (
            TuningJobEvent(
                relieved=TrainingRelieved(step=3, message="memory ran out: from here on at most 9")
            ),
            "warning: step 3: memory ran out: from here on at most 9",
        ),
        (
            TuningJobEvent(log=LogLine(level=LogLine.LEVEL_WARNING, message="hot")),
            "warning: hot",
        ),
    ],
)
def test_events_in_words(event: TuningJobEvent, line: str) -> None:
    assert list(lines_of(event)) == [line]


def test_answers_are_read_beside_what_was_wanted() -> None:
    first = Sample(prompt="<user>\nIs it late?\n", expected="No.", output="No,\x1b[2J\tit is not.")
    second = Sample(prompt="a" * 999 + "end", expected="begin" + "b" * 999, output="")
    event = TuningJobEvent(samples=Samples(step=50, samples=[first, second]))
    title, *lines = lines_of(event)
    assert title == "answers to held-out prompts after step 50:"
    assert lines[:3] == [
        "  prompt  <user> Is it late?",
        "  wanted  No.",
        "  said    No, [2J it is not.",
    ]
    assert (len(lines[3]), lines[3][-4:]) == (250, "aend")
    assert (len(lines[4]), lines[4][:15]) == (250, "  wanted  begin")
    assert lines[5] == "  said    "


def test_an_event_of_a_newer_service_is_passed_over() -> None:
    assert list(lines_of(TuningJobEvent())) == []


def test_a_state_of_a_newer_service_is_its_number() -> None:
    change = StateChange()
    change.ParseFromString(bytes([2 << 3, 99]))
    assert list(lines_of(TuningJobEvent(state_change=change))) == ["99"]


def test_steps_in_a_pipe_are_one_a_second_and_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainLines()
    for number in range(1, 8):
        view.show(step(number, 100 + number * 0.4))
    view.show(TuningJobEvent(evaluation=Evaluation(step=7)))
    shown = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    steps = [words[1] for words in shown if words[0] == "step"]
    assert steps == ["1/200", "4/200", "7/200"]
    assert shown[-1][0] == "held-out"


def test_the_bar_shows_the_figures() -> None:
    screen = io.StringIO()
    with LiveBar("job-1", Console(file=screen, force_terminal=True, width=80)) as bar:
        bar.show(step(10, 0))
        bar.show(TuningJobEvent(evaluation=Evaluation(step=10, loss=1.75)))
    shown = screen.getvalue()
    assert "held-out loss 1.7500 after step 10" in shown
    assert "10/200  ETA 1:15" in shown
    assert "loss 2.5000  best 2.2500  1,234 tokens/s  held-out 1.7500" in shown


def test_the_bar_says_that_a_paused_job_waits() -> None:
    screen = io.StringIO()
    with LiveBar("job-1", Console(file=screen, force_terminal=True, width=80)) as bar:
        bar.show(TuningJobEvent(state_change=StateChange(to=TuningJob.STATE_PAUSED)))
    assert "paused, until it is resumed" in screen.getvalue()


def test_sizes_and_durations() -> None:
    assert [size(n) for n in (0, 999, 1000, 3_400_000)] == ["0 B", "999 B", "1.0 kB", "3.4 MB"]
    assert [duration(s) for s in (0, 7.4, 754, 3723)] == ["0:00", "0:07", "12:34", "1:02:03"]


def test_keys() -> None:
    pressed = [b"\x1b[D", b"\x1bOC", b"T", b"b"]
    assert [key_of(one) for one in pressed] == ["left", "right", "t", "b"]
    with pytest.raises(KeyboardInterrupt):
        key_of(b"\x03")
    with pytest.raises(EOFError):
        key_of(b"\x04")


def test_patience_waits_longer_each_time_and_ends() -> None:
    now = [0.0]
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    patience = Patience(5.0, lambda: now[0], sleep)
    while patience.pause():
        pass
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    patience.restart()
    assert patience.pause()
    assert pauses[-1] == 0.05


def test_a_pause_is_no_longer_than_what_is_left() -> None:
    pauses: list[float] = []
    patience = Patience(5.0, lambda: 0.0, pauses.append)

    assert patience.pause(at_most_s=0.01)
    assert patience.pause()
    assert pauses == [0.01, 0.1]


def test_a_deadline_tells_what_is_left_and_then_that_it_is_over() -> None:
    assert Deadline(None, "the job").left_s() == math.inf
    assert 0 < Deadline(60.0, "the job").left_s() <= 60
    with pytest.raises(DeadlineExceeded, match="the sweep has not ended in the time given"):
        Deadline(1.0, "the sweep", started=time.monotonic() - 1).left_s()
