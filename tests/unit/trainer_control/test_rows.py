"""Rows, also those that earlier versions wrote."""

import json
import math
from dataclasses import replace
from typing import Any

from services.trainer.control.adapters.rows import changing_values, fixed_values, tuning_job
from services.trainer.control.adapters.tables import JobRow
from services.trainer.control.domain.estimation.architecture import Architecture, LinearLayers
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.estimation.sizes import Sizes
from services.trainer.control.domain.job import Start, TuningJob
from services.trainer.control.domain.methods import LoraMethod
from services.trainer.control.domain.names import ModelVersionName
from services.trainer.control.domain.resumes import ResumeCertificate
from services.trainer.control.domain.settings import TrainingParameters
from tests.unit.trainer_control.proposals import llama
from tests.unit.trainer_control.test_jobs import job

TRAINING_OF_0_1_0: dict[str, Any] = {
    "max_steps": 400,
    "epochs": 3.0,
    "batch_size": 16,
    "learning_rate": 0.005,
    "warmup_steps": 20,
    "schedule": "LINEAR",
    "weight_decay": 0.0,
    "max_gradient_norm": 0.1,
    "max_sequence_tokens": 128,
    "validation_fraction": 0.1,
    "evaluate_every": 50,
    "checkpoint_every": 100,
}
SETTINGS_OF_0_1_0: dict[str, Any] = {
    "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": ["q_proj"]},
    "training": TRAINING_OF_0_1_0,
    "seed": 7,
    "max_attempts": 3,
    "labels": {"team": "support"},
}


def row_of(a_job: TuningJob) -> JobRow:
    return JobRow(**fixed_values(a_job), **changing_values(a_job))


def test_a_job_is_read_as_it_was_written() -> None:
    assert tuning_job(row_of(job())) == job()


def test_where_a_job_went_on_from_is_read_as_it_was_written() -> None:
    start = Start(ModelVersionName("p", "support", "v-1"), "cd" * 32)
    resumed = replace(
        job(),
        spec=replace(job().spec, start=start),
        resumes=(
            ResumeCertificate(2, 50, "ab", "ab", True, ("threads 1 → 2",), 7, math.inf),
            ResumeCertificate(3, 60, "cd", "ef", False),
        ),
    )
    assert tuning_job(row_of(resumed)) == resumed


def test_a_job_that_was_written_before_versions_could_be_gone_on_from_has_none() -> None:
    row = row_of(job())
    spec = json.loads(row.spec)
    del spec["start"]
    row.spec = json.dumps(spec)
    assert tuning_job(row).spec.start is None


def test_how_large_a_job_is_is_read_as_it_was_written() -> None:
    architecture = Architecture(
        model_type="gpt2",
        parameter_count=1000,
        hidden_size=8,
        layer_count=2,
        head_count=2,
        key_value_head_count=2,
        head_size=4,
        intermediate_size=32,
        vocabulary_size=64,
        linear_layers=(LinearLayers(name="c_attn", input_size=8, output_size=24, count=2),),
    )
    sizes = Sizes(architecture, 4000, Examples(300, 71.5))
    sized = replace(job(), spec=replace(job().spec, sizes=sizes))
    assert tuning_job(row_of(sized)) == sized


def test_examples_that_were_written_before_texts_were_told_apart_are_conversations() -> None:
    sizes = Sizes(llama(), 4000, Examples(300, 71.5))
    row = row_of(replace(job(), spec=replace(job().spec, sizes=sizes)))
    spec = json.loads(row.spec)
    del spec["sizes"]["examples"]["are_texts"]
    row.spec = json.dumps(spec)
    assert tuning_job(row).spec.sizes == sizes


def test_a_job_that_was_written_before_there_were_estimates_has_no_sizes() -> None:
    row = row_of(job())
    spec = json.loads(row.spec)
    del spec["sizes"]
    row.spec = json.dumps(spec)
    assert tuning_job(row).spec.sizes is None


def test_a_job_of_version_0_1_0_is_read_with_defaults_for_what_it_lacks() -> None:
    row = row_of(job())
    row.spec = json.dumps({**json.loads(row.spec), "settings": SETTINGS_OF_0_1_0})

    settings = tuning_job(row).spec.settings

    assert settings.method == LoraMethod(
        rank=4, alpha=8, dropout=0, target_modules=("q_proj",), rslora=False, dora=False
    )
    assert settings.training == TrainingParameters.model_validate(TRAINING_OF_0_1_0)
    assert (settings.training.learning_rate, settings.training.sample_count) == (0.005, 2)
    assert (settings.seed, settings.labels) == (7, {"team": "support"})
