"""What a job would take, found without taking it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.trainer.engine.events import Event, Finished, Started
from services.trainer.engine.job import Job, job_json
from services.trainer.engine.methods import Adapter, Full, Lora, Method, Prefix, Qlora
from services.trainer.engine.preparation import prepare
from services.trainer.engine.process import ExitCode
from services.trainer.engine.simulation.estimate import Estimate, estimate
from tests.unit.engine.families import llama, save_base_model

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]
Start = Callable[..., Any]

METHODS: dict[str, Method] = {
    "full": Full(),
    "lora": Lora(rank=4),
    "dora": Lora(rank=4, dora=True),
    "qlora": Qlora(rank=4),
    "qlora_8": Qlora(rank=4, bits=8),
    "prefix": Prefix(prefix_length=4),
    "adapter": Adapter(adapter_size=8),
}
NO_RUNTIME = 0


def estimated(job: Job) -> Estimate:
    return estimate(job, prepare(job), NO_RUNTIME)


@pytest.fixture
def job_of(make_job: MakeJob, base_model: Path, tmp_path: Path) -> Callable[..., Job]:
    def make(family: str, method: str, training: dict[str, Any] | None = None) -> Job:
        directory = save_base_model(family, tmp_path / family, base_model)
        return make_job(training, base_model_dir=directory, method=METHODS[method])

    return make


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
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
