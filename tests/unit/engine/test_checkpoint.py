"""Checkpoints that are damaged or foreign are refused, in words."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from services.trainer.engine.durable import writing_directory
from services.trainer.engine.errors import CheckpointRefused
from services.trainer.engine.events import Event, LogLine
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Lora

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
