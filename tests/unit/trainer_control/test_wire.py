"""Settings and causes between the wire and the domain, both ways."""

from dataclasses import replace

import pytest

from anneal.trainer.v1 import node_lease_service_pb2 as lease_pb
from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from services.trainer.control import from_proto, to_proto
from services.trainer.control.domain.endings import Cause, Failure
from services.trainer.control.domain.settings import checked_settings
from services.trainer.control.domain.states import State
from tests.unit.trainer_control.test_jobs import job

DEFAULTS = [
    job_pb.TuningJob(full=job_pb.FullMethod()),
    job_pb.TuningJob(lora=job_pb.LoraMethod(rank=8, alpha=16, dropout=0.1)),
    job_pb.TuningJob(
        qlora=job_pb.QloraMethod(rank=8, alpha=16, dropout=0.1, bits=4, double_quantization=True)
    ),
    job_pb.TuningJob(prefix=job_pb.PrefixMethod(prefix_length=20)),
    job_pb.TuningJob(
        adapter=job_pb.AdapterMethod(
            adapter_size=64,
            placement=job_pb.AdapterMethod.PLACEMENT_PFEIFFER,
            activation=job_pb.AdapterMethod.ACTIVATION_RELU,
        )
    ),
]
CHOSEN = [
    job_pb.TuningJob(
        lora=job_pb.LoraMethod(
            rank=4, alpha=8, dropout=0, target_modules=["q_proj"], rslora=True, dora=True
        )
    ),
    job_pb.TuningJob(
        qlora=job_pb.QloraMethod(
            rank=4,
            alpha=8,
            dropout=0,
            target_modules=["q_proj", "v_proj"],
            rslora=True,
            bits=8,
            double_quantization=False,
        )
    ),
    job_pb.TuningJob(prefix=job_pb.PrefixMethod(prefix_length=5, projection_size=32)),
    job_pb.TuningJob(
        adapter=job_pb.AdapterMethod(
            adapter_size=16,
            placement=job_pb.AdapterMethod.PLACEMENT_HOULSBY,
            activation=job_pb.AdapterMethod.ACTIVATION_GELU,
            dropout=0.5,
        )
    ),
]
TRAINING = job_pb.TrainingParameters(
    max_steps=7,
    epochs=1.5,
    batch_size=3,
    learning_rate=0.5,
    warmup_steps=0,
    schedule=job_pb.TrainingParameters.SCHEDULE_CONSTANT,
    weight_decay=0.25,
    max_gradient_norm=2,
    max_sequence_tokens=64,
    validation_fraction=0.2,
    evaluate_every=4,
    checkpoint_every=5,
    batch_tokens=4096,
    micro_batch_tokens=512,
    packing=True,
    precision=job_pb.TrainingParameters.PRECISION_BFLOAT16,
    gradient_checkpointing=job_pb.TrainingParameters.CHECKPOINTING_OFF,
    long_examples=job_pb.TrainingParameters.OVERLENGTH_DROP,
    early_stopping_patience=6,
    keep_last_checkpoints=9,
    keep_checkpoint_every=10,
    sample_count=0,
    sample_max_tokens=11,
    auto=True,
)


def answered(asked: job_pb.TuningJob) -> job_pb.TuningJob:
    """What the service would answer, with nothing but the settings."""
    request = service_pb.CreateTuningJobRequest(tuning_job=asked)
    settings = checked_settings(from_proto.new_job(request).draft.settings)
    queued = job(State.QUEUED)
    answer = to_proto.tuning_job(replace(queued, spec=replace(queued.spec, settings=settings)))
    kind = kind_of(answer)
    return job_pb.TuningJob(training=answer.training, **{kind: getattr(answer, kind)})


def with_training(one: job_pb.TuningJob) -> job_pb.TuningJob:
    whole = job_pb.TuningJob(training=TRAINING)
    whole.MergeFrom(one)
    return whole


def kind_of(one: job_pb.TuningJob) -> str:
    return one.WhichOneof("method") or ""


@pytest.mark.parametrize("default", DEFAULTS, ids=kind_of)
def test_a_method_without_settings_is_answered_with_every_default(
    default: job_pb.TuningJob,
) -> None:
    bare = job_pb.TuningJob(training=TRAINING)
    getattr(bare, kind_of(default)).SetInParent()

    assert answered(bare) == with_training(default)


@pytest.mark.parametrize("chosen", [*DEFAULTS, *CHOSEN], ids=kind_of)
def test_every_setting_comes_back_as_it_was_given(chosen: job_pb.TuningJob) -> None:
    assert answered(with_training(chosen)) == with_training(chosen)


def test_the_settings_above_leave_no_field_out() -> None:
    """Else one that is lost on the way would not be missed."""
    for message in (TRAINING, *(getattr(one, kind_of(one)) for one in CHOSEN)):
        told = {field.name for field, _ in message.ListFields()}
        assert told == set(message.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("backend", [one for one in job_pb.Backend.values() if one])
def test_a_backend_comes_back_as_it_was_given_and_none_is_builtin(
    backend: job_pb.Backend.ValueType,
) -> None:
    def told(given: job_pb.Backend.ValueType) -> job_pb.Backend.ValueType:
        asked = job_pb.TuningJob(full=job_pb.FullMethod(), backend=given)
        request = service_pb.CreateTuningJobRequest(tuning_job=asked)
        settings = checked_settings(from_proto.new_job(request).draft.settings)
        queued = job(State.QUEUED)
        return to_proto.tuning_job(
            replace(queued, spec=replace(queued.spec, settings=settings))
        ).backend

    assert told(backend) == backend
    assert told(job_pb.BACKEND_UNSPECIFIED) == job_pb.BACKEND_BUILTIN


@pytest.mark.parametrize("cause", [one for one in Cause if one is not Cause.LEASE_EXPIRED])
def test_each_cause_of_a_node_is_known_and_has_a_code(cause: Cause) -> None:
    number = lease_pb.FailTuningJobRequest.Cause.Value(f"CAUSE_{cause}")
    told = from_proto.failure(lease_pb.FailTuningJobRequest(cause=number, message="why"))

    assert told.ending() == Failure(cause, "why")
    error = to_proto.tuning_job(replace(job(State.FAILED), failure=told.ending())).error
    assert error.code != 0
    assert error.message.endswith(": why")


@pytest.mark.parametrize("cause", list(Cause))
def test_each_cause_is_an_outcome_of_attempts(cause: Cause) -> None:
    assert job_pb.TuningJobAttempt.Outcome.Value(f"OUTCOME_{cause}")
