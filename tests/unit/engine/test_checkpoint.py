"""Checkpoints that are damaged or foreign are refused, in words."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.trainer.engine.checkpoint import Progress, drop_old_checkpoints
from services.trainer.engine.durable import clear_leftovers, writing_directory
from services.trainer.engine.errors import CheckpointRefused
from services.trainer.engine.events import Event, LogLine
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Lora
from services.trainer.engine.process import StopRequest
from services.trainer.engine.run import run_job
from services.trainer.engine.team import Team

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]


@pytest.fixture
def checkpoint(make_job: MakeJob, run_here: RunHere, tmp_path: Path) -> Path:
    """The checkpoint after step 3 of a job."""
    job = make_job({"max_steps": 4}, work_dir=tmp_path / "earlier")
    run_here(job)
    return job.checkpoints_dir / "step-00000003"


@pytest.mark.parametrize("name", ["trainable.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_refused(
    name: str, damage: str, checkpoint: Path, make_job: MakeJob, run_here: RunHere
) -> None:
    path = checkpoint / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        position = content.index(b'"step": 3') + 8 if name == "state.json" else -5
        content[position] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-20])
    else:
        path.unlink()
    with pytest.raises(CheckpointRefused, match=f"checkpoint step-00000003: its {name}"):
        run_here(make_job({"max_steps": 4}, resume_from=checkpoint))


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    whole = make_job(work_dir=tmp_path / "whole")
    undisturbed = run_here(whole)
    damaged = whole.checkpoints_dir / "step-00000009"
    (damaged / "optimizer.safetensors").write_bytes(b"")
    events = run_here(make_job(work_dir=tmp_path / "resumed", resume_from=damaged))
    (warning,) = (event.message for event in events if isinstance(event, LogLine))
    assert "its optimizer.safetensors does not match its digest" in warning
    assert warning.endswith("going on from step-00000006")
    assert events[-1] == undisturbed[-1]
    assert damaged.exists(), "it is another run's"


def test_a_run_goes_on_from_the_checkpoint_before_a_missing_one(
    make_job: MakeJob, run_here: RunHere
) -> None:
    whole = make_job()
    undisturbed = run_here(whole)
    missing = whole.checkpoints_dir / "step-00000008"
    events = run_here(make_job(resume_from=missing))
    (warning,) = (event.message for event in events if isinstance(event, LogLine))
    assert warning.endswith("going on from step-00000006")
    assert events[-1] == undisturbed[-1]


def test_a_missing_checkpoint_with_none_before_it_is_refused(
    make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointRefused, match=r"checkpoint step-00000008: its state\.json"):
        run_here(make_job(resume_from=tmp_path / "nowhere" / "step-00000008"))


def test_a_run_removes_those_of_its_own_checkpoints_that_are_of_no_use(
    make_job: MakeJob, run_here: RunHere
) -> None:
    settings = {"evaluate_every": 0, "validation_fraction": 0.0}
    whole = make_job(settings)
    run_here(whole)
    for step in (9, 12):
        (whole.checkpoints_dir / f"step-{step:08d}" / "state.json").write_text("{}")
    resumed = make_job(settings, resume_from=whole.checkpoints_dir / "step-00000012")
    found: list[set[str]] = []

    class Watch:
        def emit(self, event: Event) -> None:
            if event.type == "resumed":
                found.append({path.name for path in whole.checkpoints_dir.iterdir()})

    run_job(resumed, Watch(), StopRequest(), time.monotonic, Team())
    assert found == [{"step-00000003", "step-00000006"}]


def test_checkpoints_of_later_steps_do_not_push_out_the_newest(tmp_path: Path) -> None:
    for step in (10, 20, 40):
        (tmp_path / f"step-{step:08d}").mkdir()
    drop_old_checkpoints(tmp_path, Progress(step=20, best_step=10), last=1, every=0)
    assert steps_in(tmp_path) == {10, 20, 40}
    drop_old_checkpoints(tmp_path, Progress(step=40, best_step=10), last=1, every=0)
    assert steps_in(tmp_path) == {10, 40}


def steps_in(directory: Path) -> set[int]:
    return {int(path.name.removeprefix("step-")) for path in directory.glob("step-*")}


def test_a_checkpoint_of_other_settings_is_refused(
    checkpoint: Path, make_job: MakeJob, run_here: RunHere
) -> None:
    method = Lora(rank=5, alpha=8.0, dropout=0.1, target_modules=())
    with pytest.raises(CheckpointRefused, match=r"made with another settings$"):
        run_here(make_job({"max_steps": 4}, resume_from=checkpoint, method=method))
    with pytest.raises(CheckpointRefused, match="made with another settings, dataset, plan"):
        run_here(make_job({"max_steps": 4}, resume_from=checkpoint, seed=8))


def test_a_checkpoint_of_another_base_model_is_refused(
    checkpoint: Path, make_job: MakeJob, run_here: RunHere, base_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(base_model, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointRefused, match=r"made with another base_model$"):
        run_here(make_job({"max_steps": 4}, resume_from=checkpoint, base_model_dir=other))


def test_another_environment_is_only_warned_of(
    checkpoint: Path, make_job: MakeJob, run_here: RunHere
) -> None:
    events = run_here(make_job({"max_steps": 4}, resume_from=checkpoint, threads=2))
    warnings = [event.message for event in events if isinstance(event, LogLine)]
    assert len(warnings) == 1
    assert "not bit for bit" in warnings[0]
    assert "threads 1 → 2" in warnings[0]


def test_a_checkpoint_holds_no_base_weights(checkpoint: Path, base_model: Path) -> None:
    base = sum(path.stat().st_size for path in base_model.glob("*.safetensors"))
    assert (checkpoint / "trainable.safetensors").stat().st_size < base / 5
    assert json.loads((checkpoint / "state.json").read_text())["progress"]["step"] == 3


def write(target: Path, files: dict[str, bytes]) -> None:
    with writing_directory(target) as directory:
        for name, content in files.items():
            (directory / name).write_bytes(content)


def test_a_directory_replaces_its_forerunner_and_its_own_leftovers(tmp_path: Path) -> None:
    target = tmp_path / "step-00000001"
    write(target, {"a": b"old", "b": b"old"})
    leftover = tmp_path / ".step-00000001.writing"
    leftover.mkdir()
    (leftover / "a").write_bytes(b"half")
    write(target, {"a": b"new"})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"a": b"new"}


def test_what_a_kill_left_is_cleared_away_and_what_was_being_replaced_is_back(
    tmp_path: Path,
) -> None:
    for name in (".one.writing", ".two.replaced", ".three.replaced", "three", ".four.removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    clear_leftovers(tmp_path)
    found = {path.name: (path / "content").read_text() for path in tmp_path.iterdir()}
    assert found == {"two": ".two.replaced", "three": "three"}


def test_a_run_begins_by_clearing_away_leftovers(make_job: MakeJob, run_here: RunHere) -> None:
    job = make_job({"max_steps": 1})
    leftover = job.checkpoints_dir / ".step-00000003.writing"
    leftover.mkdir(parents=True)
    run_here(job)
    assert {path.name for path in job.checkpoints_dir.iterdir()} == {"step-00000001"}
