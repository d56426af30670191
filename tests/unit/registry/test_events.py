"""What the registry reads out of the trainer's event."""

import pytest

from anneal.trainer.v1.tuning_job_pb2 import (
    AdapterMethod,
    TrainingParameters,
    TuningJob,
    TuningJobSucceeded,
)
from services.common.faults import InvalidArgument
from services.registry.adapters.events import finished_job
from services.registry.domain.names import ModelName


def event() -> TuningJobSucceeded:
    made = TuningJobSucceeded(
        manifest_digest="a" * 64,
        dataset_digest="c" * 64,
        base_model_digest="d" * 64,
        code_version="0.1.0",
        metrics={"training_loss": 0.5},
    )
    made.job.name = "projects/default/tuningJobs/first"
    made.job.model = "projects/default/models/support"
    made.job.base_model = "baseModels/tiny-base"
    made.job.dataset_version = "projects/default/datasets/support/versions/v-1"
    made.job.seed = 2**60
    made.job.lora.rank = 8
    made.job.lora.target_modules.extend(["q_proj", "v_proj"])
    made.job.training.learning_rate = 0.0002
    made.job.training.schedule = TrainingParameters.SCHEDULE_LINEAR
    made.job.training.precision = TrainingParameters.PRECISION_BFLOAT16
    made.job.training.gradient_checkpointing = TrainingParameters.CHECKPOINTING_AUTO
    made.job.training.long_examples = TrainingParameters.OVERLENGTH_DROP
    return made


def test_the_lineage_is_whole() -> None:
    job = finished_job(event().SerializeToString())

    assert job.model == ModelName("default", "support")
    assert (job.manifest_digest, job.metrics) == ("a" * 64, {"training_loss": 0.5})
    lineage = job.lineage
    assert lineage.tuning_job == "projects/default/tuningJobs/first"
    assert lineage.dataset_version == "projects/default/datasets/support/versions/v-1"
    assert (lineage.dataset_digest, lineage.base_model_digest) == ("c" * 64, "d" * 64)
    assert (lineage.base_model, lineage.method) == ("baseModels/tiny-base", "lora")
    assert (lineage.code_version, lineage.start_version) == ("0.1.0", "")
    assert lineage.hyperparameters == {
        "rank": 8,
        "target_modules": ["q_proj", "v_proj"],
        "rslora": False,
        "dora": False,
        "max_steps": 0,
        "learning_rate": 0.0002,
        "schedule": "linear",
        "batch_tokens": 0,
        "micro_batch_tokens": 0,
        "packing": False,
        "precision": "bfloat16",
        "gradient_checkpointing": "auto",
        "long_examples": "drop",
        "early_stopping_patience": 0,
        "keep_checkpoint_every": 0,
        "auto": False,
        "seed": 2**60,
    }


def test_the_version_that_was_gone_on_from_is_kept() -> None:
    made = event()
    made.job.start_version = "projects/default/models/support/versions/v-1"

    lineage = finished_job(made.SerializeToString()).lineage

    assert lineage.start_version == "projects/default/models/support/versions/v-1"
    assert "start_version" not in lineage.hyperparameters


def test_the_words_of_a_method_are_kept_as_words() -> None:
    made = event()
    made.job.adapter.placement = AdapterMethod.PLACEMENT_HOULSBY
    made.job.adapter.activation = AdapterMethod.ACTIVATION_SILU

    lineage = finished_job(made.SerializeToString()).lineage

    assert lineage.method == "adapter"
    words = {name: lineage.hyperparameters[name] for name in ("placement", "activation")}
    assert words == {"placement": "houlsby", "activation": "silu"}


def test_an_event_without_a_method_or_a_model_is_refused() -> None:
    without_method = event()
    without_method.job.ClearField("lora")
    with pytest.raises(ValueError, match="no method"):
        finished_job(without_method.SerializeToString())

    without_model = event()
    without_model.job.CopyFrom(TuningJob(name="x", lora=event().job.lora))
    with pytest.raises(InvalidArgument):
        finished_job(without_model.SerializeToString())
