"""What a lease says of a job's settings, as the engine's job file has it."""

import pytest

from anneal.trainer.v1 import tuning_job_pb2 as pb
from services.trainer.node import engine_settings

JOBS = {
    "full": pb.TuningJob(full=pb.FullMethod()),
    "lora": pb.TuningJob(
        lora=pb.LoraMethod(
            rank=4, alpha=8, dropout=0, target_modules=["q_proj"], rslora=True, dora=True
        )
    ),
    "qlora": pb.TuningJob(
        qlora=pb.QloraMethod(rank=4, alpha=8, dropout=0.5, bits=8, double_quantization=False)
    ),
    "prefix": pb.TuningJob(prefix=pb.PrefixMethod(prefix_length=5)),
    "adapter": pb.TuningJob(
        adapter=pb.AdapterMethod(
            adapter_size=16,
            placement=pb.AdapterMethod.PLACEMENT_HOULSBY,
            activation=pb.AdapterMethod.ACTIVATION_SILU,
        )
    ),
}
METHODS: dict[str, dict[str, object]] = {
    "full": {"kind": "full"},
    "lora": {
        "kind": "lora",
        "rank": 4,
        "alpha": 8.0,
        "dropout": 0.0,
        "target_modules": ["q_proj"],
        "rslora": True,
        "dora": True,
    },
    "qlora": {
        "kind": "qlora",
        "rank": 4,
        "alpha": 8.0,
        "dropout": 0.5,
        "target_modules": [],
        "rslora": False,
        "bits": 8,
        "double_quantization": False,
    },
    "prefix": {"kind": "prefix", "prefix_length": 5, "projection_size": 0},
    "adapter": {
        "kind": "adapter",
        "adapter_size": 16,
        "placement": "houlsby",
        "activation": "silu",
        "dropout": 0.0,
    },
}
TRAINING: dict[str, object] = {
    "max_steps": 0,
    "epochs": 3.0,
    "batch_size": 8,
    "learning_rate": 2e-4,
    "warmup_steps": 0,
    "schedule": "linear",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_sequence_tokens": 512,
    "validation_fraction": 0.1,
    "evaluate_every": 50,
    "checkpoint_every": 50,
    "batch_tokens": 4096,
    "micro_batch_tokens": 0,
    "packing": True,
    "precision": "bfloat16",
    "gradient_checkpointing": "off",
    "long_examples": "refuse",
    "early_stopping_patience": 3,
    "keep_last_checkpoints": 2,
    "keep_checkpoint_every": 0,
    "sample_count": 0,
    "sample_max_tokens": 48,
}


@pytest.mark.parametrize("kind", JOBS)
def test_every_field_of_a_method_is_in_the_file(kind: str) -> None:
    assert engine_settings.method(JOBS[kind]) == METHODS[kind]


def test_every_field_of_the_training_is_in_the_file() -> None:
    told = pb.TrainingParameters(
        epochs=3,
        batch_size=8,
        learning_rate=2e-4,
        warmup_steps=0,
        schedule=pb.TrainingParameters.SCHEDULE_LINEAR,
        weight_decay=0,
        max_gradient_norm=1,
        max_sequence_tokens=512,
        validation_fraction=0.1,
        evaluate_every=50,
        checkpoint_every=50,
        batch_tokens=4096,
        packing=True,
        precision=pb.TrainingParameters.PRECISION_BFLOAT16,
        gradient_checkpointing=pb.TrainingParameters.CHECKPOINTING_OFF,
        long_examples=pb.TrainingParameters.OVERLENGTH_REFUSE,
        early_stopping_patience=3,
        keep_last_checkpoints=2,
        sample_count=0,
        sample_max_tokens=48,
        auto=True,  # the service has resolved it
    )
    assert engine_settings.training(pb.TuningJob(training=told)) == TRAINING


def test_what_an_older_service_does_not_say_is_left_to_the_engine() -> None:
    told = engine_settings.training(pb.TuningJob())
    assert "precision" not in told
    assert "sample_count" not in told
    assert "rank" not in engine_settings.method(pb.TuningJob(lora=pb.LoraMethod()))


def test_what_only_a_newer_service_knows_is_refused_by_the_engine_not_here() -> None:
    assert engine_settings.method(pb.TuningJob()) == {"kind": "unknown"}
    schedule = pb.TrainingParameters.FromString(b"\x30\x63")  # field 6, schedule: 99
    assert engine_settings.training(pb.TuningJob(training=schedule))["schedule"] == "99"
