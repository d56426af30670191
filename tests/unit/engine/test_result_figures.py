"""What the end of a run says of the model that is its result."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.trainer.engine.events import Evaluated, Event, Finished
from services.trainer.engine.job import Job

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]

# A rate at which the held-out loss falls, then rises.
HASTY = {
    "learning_rate": 0.3,
    "evaluate_every": 2,
    "checkpoint_every": 4,
    "schedule": "constant",
}


@pytest.mark.parametrize(("patience", "max_steps"), [(0, 6), (3, 60)])
def test_the_accuracy_that_is_told_is_of_the_model_whose_loss_is_told(
    patience: int, max_steps: int, make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    training = {**HASTY, "max_steps": max_steps, "early_stopping_patience": patience}
    job = make_job(training)
    events = run_here(job)
    finished = events[-1]
    assert isinstance(finished, Finished)
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    best = min(evaluations, key=lambda event: event.loss)
    (shown,) = (event for event in evaluations if event.loss == finished.validation_loss)
    assert shown is (best if patience else evaluations[-1])
    assert not patience or best is not evaluations[-1]
    assert finished.token_accuracy == shown.token_accuracy

    newest = max(job.checkpoints_dir.iterdir())
    resumed = make_job(training, work_dir=tmp_path / "resumed", resume_from=newest)
    assert run_here(resumed)[-1] == finished, "also if there is nothing left to evaluate"
