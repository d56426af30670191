"""Held-out examples decide when to stop, which model to keep, and show what it says."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.trainer.engine.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    Finished,
    LogLine,
    Sampled,
    StepDone,
)
from services.trainer.engine.job import Job

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]

# A rate at which the held-out loss falls, then rises.
HASTY = {
    "learning_rate": 0.3,
    "max_steps": 60,
    "evaluate_every": 2,
    "checkpoint_every": 4,
    "early_stopping_patience": 3,
    "schedule": "constant",
}


def adapter(job: Job) -> bytes:
    return (job.artifacts_dir / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def stopped(make_job: MakeJob, run_here: RunHere, tmp_path: Path) -> tuple[Job, list[Event]]:
    job = make_job(HASTY, work_dir=tmp_path / "stopped")
    return job, run_here(job)


def test_a_run_stops_when_the_held_out_loss_falls_no_more(
    stopped: tuple[Job, list[Event]],
) -> None:
    losses = [event.loss for event in stopped[1] if isinstance(event, Evaluated)]
    assert losses.index(min(losses)) == len(losses) - 1 - 3
    last = [event for event in stopped[1] if isinstance(event, StepDone)][-1]
    assert last.step == 2 * len(losses) < 60


def test_the_result_is_the_best_model_and_not_the_last(
    stopped: tuple[Job, list[Event]], make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    job, events = stopped
    losses = [event.loss for event in events if isinstance(event, Evaluated)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.validation_loss == min(losses)
    best_step = 2 * (losses.index(min(losses)) + 1)
    assert any(f"step {best_step}" in e.message for e in events if isinstance(e, LogLine))

    short = {**HASTY, "max_steps": best_step, "early_stopping_patience": 0}
    until_then = make_job(short, work_dir=tmp_path / "until_then")
    run_here(until_then)
    assert adapter(until_then) == adapter(job)


def test_a_resumed_run_stops_at_the_same_step_with_the_same_bytes(
    stopped: tuple[Job, list[Event]], make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    job, events = stopped
    for checkpoint in sorted(job.checkpoints_dir.iterdir())[::3]:
        name = tmp_path / checkpoint.name
        resumed = make_job(HASTY, work_dir=name, resume_from=checkpoint)
        assert run_here(resumed)[-1] == events[-1]
        assert adapter(resumed) == adapter(job)


def test_samples_are_answers_to_held_out_prompts(make_job: MakeJob, run_here: RunHere) -> None:
    training = {"max_steps": 150, "evaluate_every": 75, "checkpoint_every": 0, "sample_count": 3}
    events = run_here(make_job(training))
    first, last = [event for event in events if isinstance(event, Sampled)]
    assert (first.step, last.step) == (75, 150)
    assert [s.prompt for s in first.samples] == [s.prompt for s in last.samples]
    assert len(last.samples) == 3
    for sample in last.samples:
        assert "Last of" in sample.prompt
        assert sample.expected.startswith("It is ")
        assert sample.output.startswith("It is ")


def test_checkpoints_are_kept_by_policy(make_job: MakeJob, run_here: RunHere) -> None:
    training = {
        "max_steps": 20,
        "checkpoint_every": 1,
        "evaluate_every": 1,
        "keep_last_checkpoints": 2,
        "keep_checkpoint_every": 8,
    }
    job = make_job(training)
    events = run_here(job)
    losses = {event.step: event.loss for event in events if isinstance(event, Evaluated)}
    best = min(losses, key=losses.__getitem__)
    kept = {int(path.name.removeprefix("step-")) for path in job.checkpoints_dir.iterdir()}
    assert kept == {8, 16, 19, 20, best}


def test_the_best_model_is_a_checkpoint_though_none_was_due(
    make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    sparse = {**HASTY, "checkpoint_every": 100, "keep_last_checkpoints": 1}
    job = make_job(sparse)
    losses = {event.step: event.loss for event in run_here(job) if isinstance(event, Evaluated)}
    best, last = min(losses, key=losses.__getitem__), max(losses)
    names = sorted(path.name for path in job.checkpoints_dir.iterdir())
    assert names == [f"step-{best:08d}", f"step-{last:08d}"]

    short = sparse | {"max_steps": best, "early_stopping_patience": 0}
    until_then = make_job(short, work_dir=tmp_path / "until_then")
    run_here(until_then)
    ours, theirs = (
        (each.checkpoints_dir / f"step-{best:08d}" / "trainable.safetensors").read_bytes()
        for each in (job, until_then)
    )
    assert ours == theirs


def test_a_run_that_is_to_write_no_checkpoint_before_its_end_writes_none(
    make_job: MakeJob, run_here: RunHere
) -> None:
    events = run_here(make_job({"evaluate_every": 1, "checkpoint_every": 0, "max_steps": 4}))
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [4]


def test_a_run_without_patience_keeps_no_second_copy(make_job: MakeJob, run_here: RunHere) -> None:
    job = make_job({"max_steps": 4, "evaluate_every": 1})
    run_here(job)
    newest = max(job.checkpoints_dir.iterdir())
    assert not (newest / "best.safetensors").exists()
    assert json.loads((newest / "state.json").read_text())["progress"]["best_step"]
