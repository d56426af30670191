"""What a job would take, found without taking it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.trainer.engine.events import Event, Started
from services.trainer.engine.job import Job, job_json
from services.trainer.engine.methods import Lora, Method, Prefix, Qlora
from services.trainer.engine.preparation import prepare
from services.trainer.engine.process import ExitCode
from services.trainer.engine.simulation import estimate as estimate_module
from services.trainer.engine.simulation.estimate import Estimate, estimate
from services.trainer.engine.simulation.rehearsal import Runtime
from tests.engines import engine
from tests.unit.engine.conftest import ROOT
from tests.unit.engine.families import llama, save_base_model

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]
Run = Callable[..., tuple[int, str]]

METHODS: dict[str, Method] = {
    "dora": Lora(rank=4, dora=True),
    "qlora": Qlora(rank=4),
    "prefix": Prefix(prefix_length=4),
}
# One step of so many tokens that they, and not the head's rows, are what a step holds.
ONE_STEP = {"max_steps": 1, "batch_size": 36, "evaluate_every": 0}
NO_RUNTIME = Runtime(0, 0)


@pytest.fixture
def run_engine(tmp_path: Path) -> Run:
    """Runs `python -m services.trainer.engine` on a job to its end; returns its exit code and what
    it printed. (A fork of this process would have its memory.)"""

    def run(job: Job, *options: str) -> tuple[int, str]:
        path = tmp_path / "job.json"
        path.write_text(job_json(job))
        ended = subprocess.run(
            [sys.executable, "-m", "services.trainer.engine", *options, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
            check=False,
        )
        return ended.returncode, ended.stdout

    return run


def estimated(job: Job) -> Estimate:
    return estimate(job, prepare(job), NO_RUNTIME)


def activations(job: Job) -> int:
    return estimated(job).peak_memory.activations_bytes


@pytest.fixture
def job_of(make_job: MakeJob, base_model: Path, tmp_path: Path) -> Callable[..., Job]:
    def make(family: str, method: str, training: dict[str, Any] | None = None) -> Job:
        directory = save_base_model(family, tmp_path / family, base_model)
        return make_job(training, base_model_dir=directory, method=METHODS[method])

    return make


@pytest.mark.parametrize(
    ("family", "method"),
    [("llama", "qlora"), ("gpt2", "dora"), ("t5", "prefix")],
)
def test_parameters_steps_and_tokens_are_those_of_the_run(
    family: str, method: str, job_of: Callable[..., Job], run_here: RunHere
) -> None:
    job = job_of(family, method, {"max_steps": 0, "epochs": 1.0})
    found = estimated(job)
    started = next(event for event in run_here(job) if isinstance(event, Started))
    assert found.trainable_parameters == started.trainable_parameters
    assert found.total_parameters == started.total_parameters
    assert found.total_steps == started.total_steps
    assert found.tokens == started.tokens_per_epoch
    assert found.method == job.method.kind
    peak = found.peak_memory
    assert peak.total_bytes == (
        peak.weights_bytes
        + peak.trainable_bytes
        + peak.optimizer_bytes
        + peak.activations_bytes
        + peak.runtime_bytes
    )


def test_more_blocks_lie_on_the_line_through_two_and_four(
    make_job: MakeJob, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "deep"
    shutil.copytree(base_model, directory)
    llama(blocks=8).save_pretrained(directory)
    # The second step's fullest moment has the optimizer's moments, of however many blocks.
    job = make_job({**ONE_STEP, "max_steps": 2}, base_model_dir=directory)
    few = estimated(job)
    monkeypatch.setattr(estimate_module, "_MOST_BLOCKS", 8)
    whole = estimated(job)
    assert few.total_parameters == whole.total_parameters
    assert few.trainable_parameters == whole.trainable_parameters
    ours, theirs = few.peak_memory, whole.peak_memory
    assert ours.weights_bytes == theirs.weights_bytes
    assert ours.optimizer_bytes == pytest.approx(theirs.optimizer_bytes, rel=0.01)
    assert ours.activations_bytes == pytest.approx(theirs.activations_bytes, rel=0.1)


def test_activations_computed_again_take_less(make_job: MakeJob) -> None:
    kept, again = (
        activations(make_job({**ONE_STEP, "gradient_checkpointing": mode}))
        for mode in ("off", "on")
    )
    assert again < 0.8 * kept


def test_smaller_parts_take_less(make_job: MakeJob) -> None:
    whole, parted = (
        activations(make_job({**ONE_STEP, "micro_batch_tokens": tokens})) for tokens in (0, 256)
    )
    assert parted < 0.7 * whole


def test_two_processes_hold_two_models(make_job: MakeJob) -> None:
    one, two = (estimated(make_job(ONE_STEP, processes=count)).peak_memory for count in (1, 2))
    assert two.weights_bytes == 2 * one.weights_bytes
    assert two.activations_bytes < 2 * one.activations_bytes


def test_packed_rows_are_simulated_with_what_they_attend_to(make_job: MakeJob) -> None:
    found = estimated(make_job({**ONE_STEP, "packing": True, "batch_tokens": 300}))
    assert found.peak_memory.activations_bytes > 0


def test_the_engine_prints_an_estimate(make_job: MakeJob, run_engine: Run) -> None:
    job = make_job({"precision": "float32"})
    code, printed = run_engine(job, "--estimate")
    assert code == ExitCode.OK
    found = json.loads(printed)
    code, events = run_engine(job)
    assert code == ExitCode.OK
    finished = json.loads(events.splitlines()[-1])
    estimated_bytes = found["peak_memory"]["total_bytes"]
    assert estimated_bytes == pytest.approx(finished["peak_memory_bytes"], rel=0.05)
    assert found["total_steps"] == finished["steps"]


def test_a_job_at_fault_is_told_by_an_estimate_too(make_job: MakeJob, tmp_path: Path) -> None:
    content = json.loads(job_json(make_job()))
    content["method"]["target_modules"] = ["nowhere"]
    job_file = tmp_path / "job.json"
    job_file.write_text(json.dumps(content))
    with engine("--estimate", job_file) as estimating:
        failed = json.loads(estimating.output.read())
        assert estimating.exit_code() == ExitCode.INVALID
    assert (failed["type"], failed["kind"]) == ("failed", "invalid_job")
    assert "nowhere" in failed["message"]
