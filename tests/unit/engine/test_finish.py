"""A run that is to finish with what its checkpoints hold."""

import shutil
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from services.trainer.engine.errors import InvalidJob
from services.trainer.engine.events import (
    Alive,
    Evaluated,
    Event,
    Finished,
    LogLine,
    StepDone,
)
from services.trainer.engine.job import Job
from services.trainer.engine.loop import Ending
from services.trainer.engine.process import StopRequest
from services.trainer.engine.run import run_job
from services.trainer.engine.team import Team

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]

# A rate at which the held-out loss falls, then rises: it is lowest at step 16.
HASTY = {
    "learning_rate": 0.05,
    "max_steps": 22,
    "evaluate_every": 2,
    "checkpoint_every": 7,
    "schedule": "constant",
}


def adapter(job: Job) -> bytes:
    return (job.artifacts_dir / "adapter_model.safetensors").read_bytes()


def losses_of(events: list[Event]) -> dict[int, float]:
    return {event.step: event.loss for event in events if isinstance(event, Evaluated)}


@pytest.fixture
def trained(make_job: MakeJob, run_here: RunHere, tmp_path: Path) -> tuple[Job, list[Event]]:
    job = make_job(HASTY, work_dir=tmp_path / "trained")
    return job, run_here(job)


@pytest.fixture
def finished(
    trained: tuple[Job, list[Event]], make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> Callable[..., tuple[Job, list[Event]]]:
    """A run that is to finish with the checkpoint of a step and those of others beside it."""

    def finish(step: int, *beside: int) -> tuple[Job, list[Event]]:
        resume = tmp_path / f"resume-{step}"
        for one in (step, *beside):
            name = f"step-{one:08d}"
            shutil.copytree(trained[0].checkpoints_dir / name, resume / name)
        job = make_job(
            HASTY,
            work_dir=tmp_path / f"finished-{step}",
            resume_from=resume / f"step-{step:08d}",
            finish=True,
        )
        return job, run_here(job)

    return finish


def test_the_result_is_the_best_of_the_checkpoints(
    trained: tuple[Job, list[Event]],
    finished: Callable[..., tuple[Job, list[Event]]],
    make_job: MakeJob,
    run_here: RunHere,
    tmp_path: Path,
) -> None:
    losses = losses_of(trained[1])
    best = min(losses, key=losses.__getitem__)
    assert best < 21, "the rate is meant to be too high"
    job, events = finished(21, best)

    assert not [event for event in events if isinstance(event, StepDone)]
    ended = events[-1]
    assert isinstance(ended, Finished)
    assert (ended.steps, ended.validation_loss) == (21, losses[best])
    assert any(f"the model of step {best}, the best" in str(event) for event in events)
    short = make_job({**HASTY, "max_steps": best}, work_dir=tmp_path / "short")
    run_here(short)
    assert adapter(job) == adapter(short)


def test_the_last_step_is_evaluated_unless_it_was_before(
    trained: tuple[Job, list[Event]], finished: Callable[..., tuple[Job, list[Event]]]
) -> None:
    """Step 7 is none at which it was due."""
    _, events = finished(7)
    (evaluated,) = [event for event in events if isinstance(event, Evaluated)]
    ended = events[-1]
    assert isinstance(ended, Finished)
    assert evaluated.step == 7
    assert evaluated.loss < min(loss for step, loss in losses_of(trained[1]).items() if step < 7)
    assert ended.validation_loss == evaluated.loss
    assert not losses_of(finished(14)[1])

    _, events = finished(21)
    told = [event.message for event in events if isinstance(event, LogLine)]
    assert any("the result is not the best model" in message for message in told)
    ended = events[-1]
    assert isinstance(ended, Finished)
    assert ended.validation_loss == losses_of(events)[21], "without the best the last one serves"


def test_where_nothing_is_held_out_the_last_model_is_the_result(
    make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    training = {"validation_fraction": 0.0}
    whole = make_job(training, work_dir=tmp_path / "whole")
    run_here(whole)
    resumed = make_job(
        training,
        work_dir=tmp_path / "finished",
        resume_from=whole.checkpoints_dir / "step-00000006",
        finish=True,
    )
    events = run_here(resumed)
    assert isinstance(events[-1], Finished)
    assert (events[-1].steps, events[-1].validation_loss) == (6, None)
    assert adapter(resumed) != adapter(whole)


def test_a_run_that_stops_early_finishes_with_the_best_that_its_checkpoint_holds(
    make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    training = {**HASTY, "early_stopping_patience": 100}
    whole = make_job(training, work_dir=tmp_path / "whole")
    events = run_here(whole)
    alone = tmp_path / "alone" / "step-00000022"
    shutil.copytree(whole.checkpoints_dir / alone.name, alone)
    job = make_job(training, work_dir=tmp_path / "finished", resume_from=alone, finish=True)
    assert run_here(job)[-1] == events[-1]
    assert adapter(job) == adapter(whole)


def test_a_run_without_a_step_has_nothing_to_finish_with(
    make_job: MakeJob, run_here: RunHere
) -> None:
    with pytest.raises(InvalidJob, match="no step was done"):
        run_here(make_job(finish=True))


class Everything:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def signs(events: list[Event]) -> Iterator[str]:
    """Each sign of life with the event that it leads to."""
    for sign, next_one in pairwise(events):
        if isinstance(sign, Alive) and sign.doing != "step":
            yield f"{sign.doing} {next_one.type}"


def test_a_run_tells_what_it_does_instead_of_a_step(make_job: MakeJob) -> None:
    told = Everything()
    job = make_job({"max_steps": 3, "sample_count": 1})
    assert run_job(job, told, StopRequest(), time.monotonic, Team()) is Ending.COMPLETE
    assert [*signs(told.events)] == [
        "evaluation eval",
        "samples samples",
        "checkpoint checkpoint",
        "result finished",
    ]


def test_what_takes_long_is_told_to_go_on_with_each_part(make_job: MakeJob) -> None:
    """By a clock that stands a second later each time it is read."""
    ticks = iter(range(100_000))
    told = Everything()
    job = make_job({"max_steps": 1, "micro_batch_tokens": 60, "sample_count": 3})
    run_job(job, told, StopRequest(), lambda: float(next(ticks)), Team())
    doing = [event.doing for event in told.events if isinstance(event, Alive)]
    assert doing.count("step") > 1
    assert doing.count("evaluation") > 1
    assert doing.count("samples") == 1 + 3
