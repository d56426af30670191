"""CreateTuningJob, Get and the ledger of request_ids."""

import asyncio
import json
import time
from collections.abc import Callable

import grpc.aio
import pytest

from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from tests.contract.trainer_control.world import ADAPTER, DIGEST, PARENT, World, refused


def unplaced(job: job_pb.TuningJob) -> job_pb.TuningJob:
    """Its place in the queue is known to Get alone, and moves."""
    job.ClearField("queue_place")
    return job


async def test_a_new_job_is_queued_with_every_default_resolved(world: World) -> None:
    job = await world.create("first")

    assert job.name == f"{PARENT}/tuningJobs/first"
    assert job.state == job_pb.TuningJob.STATE_QUEUED
    assert job.dataset_version == f"{PARENT}/datasets/support/versions/v-1234567890abcdef"
    assert job.model == f"{PARENT}/models/support"
    assert (job.lora.rank, job.lora.alpha, job.lora.dropout) == (8, 16.0, 0.1)
    assert job.training == job_pb.TrainingParameters(
        epochs=3,
        batch_size=8,
        learning_rate=2e-4,
        warmup_steps=10,
        schedule=job_pb.TrainingParameters.SCHEDULE_COSINE,
        weight_decay=0,
        max_gradient_norm=1,
        max_sequence_tokens=512,
        validation_fraction=0.1,
        evaluate_every=50,
        checkpoint_every=50,
        precision=job_pb.TrainingParameters.PRECISION_AUTO,
        gradient_checkpointing=job_pb.TrainingParameters.CHECKPOINTING_AUTO,
        long_examples=job_pb.TrainingParameters.OVERLENGTH_TRUNCATE,
        keep_last_checkpoints=2,
        sample_count=2,
        sample_max_tokens=48,
    )
    assert (job.max_attempts, job.attempt, job.seed) == (3, 0, 0)
    assert job.create_time == job.update_time
    assert not job.HasField("start_time")
    assert unplaced(await world.get(job.name)) == job


async def test_zero_is_a_value_where_a_field_can_be_unset(world: World) -> None:
    training = job_pb.TrainingParameters(warmup_steps=0, evaluate_every=0, max_gradient_norm=0)

    job = await world.create(training=training, lora=job_pb.LoraMethod(dropout=0))

    assert job.training.warmup_steps == 0
    assert job.training.evaluate_every == 0
    assert job.training.max_gradient_norm == 0
    assert job.lora.dropout == 0
    assert job.training.batch_size == 8


async def test_every_violation_is_told_at_once(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create(
            base_model="baseModels/unknown",
            dataset_version=f"{PARENT}/datasets/unknown/versions/latest",
            model="projects/other/models/m",
            lora=job_pb.LoraMethod(rank=0, dropout=1.0, target_modules=["q_proj", ""]),
            training=job_pb.TrainingParameters(learning_rate=float("nan"), batch_size=5000),
            max_attempts=21,
            labels={"k" * 64: "v"},
        )

    fault = refused(refusal)
    assert fault.code == "INVALID_ARGUMENT"
    reasons = fault.reason_of
    assert {field: reason for field, reason in reasons.items() if "NOT_FOUND" in reason} == {
        "tuning_job.base_model": "BASE_MODEL_NOT_FOUND",
        "tuning_job.dataset_version": "DATASET_VERSION_NOT_FOUND",
    }
    assert set(reasons) > {
        "tuning_job.model",
        "tuning_job.lora.rank",
        "tuning_job.lora.dropout",
        "tuning_job.lora.target_modules.1",
        "tuning_job.training.learning_rate",
        "tuning_job.training.batch_size",
        "tuning_job.max_attempts",
    }
    assert any(field.startswith("tuning_job.labels") for field in reasons)


async def test_faults_beside_the_job_are_told_with_those_in_it(world: World) -> None:
    request = service_pb.CreateTuningJobRequest(
        parent=PARENT,
        tuning_job_id="Not_An_Id",
        request_id="not-a-uuid",
        tuning_job=world.draft(base_model="baseModels/unknown", max_attempts=21),
    )

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.jobs.CreateTuningJob(request)

    assert set(refused(refusal).reason_of) == {
        "tuning_job_id",
        "request_id",
        "tuning_job.base_model",
        "tuning_job.max_attempts",
    }


async def test_a_job_without_a_method_is_refused(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create(lora=None)

    assert refused(refusal).reason_of == {"tuning_job.method": "MISSING"}
    assert "set one of full, lora, qlora, prefix and adapter" in str(refusal.value.details())


async def test_a_job_of_each_method_is_kept_and_leased_as_it_was_answered(world: World) -> None:
    houlsby = job_pb.AdapterMethod.PLACEMENT_HOULSBY
    methods = {
        "full": (job_pb.FullMethod(), 2e-5),
        "lora": (job_pb.LoraMethod(rank=4, rslora=True), 2e-4),
        "qlora": (job_pb.QloraMethod(bits=8, double_quantization=False), 2e-4),
        "prefix": (job_pb.PrefixMethod(prefix_length=7), 3e-2),
        "adapter": (job_pb.AdapterMethod(placement=houlsby), 1e-3),
    }
    for kind, (method, learning_rate) in methods.items():
        created = await world.create(**{"lora": None, kind: method})

        assert created.WhichOneof("method") == kind
        assert created.training.learning_rate == learning_rate
        assert unplaced(await world.get(created.name)) == created
        lease = await world.claim()
        assert lease is not None
        assert getattr(lease.job, kind) == getattr(created, kind)
        assert lease.job.training == created.training


async def test_a_fault_is_named_under_the_method_that_was_chosen(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create(
            lora=None,
            qlora=job_pb.QloraMethod(bits=5, rank=0),
            training=job_pb.TrainingParameters(early_stopping_patience=2, evaluate_every=0),
        )

    assert set(refused(refusal).reason_of) == {
        "tuning_job.qlora.bits",
        "tuning_job.qlora.rank",
        "tuning_job.training.early_stopping_patience",
    }


VERSION = f"{PARENT}/models/support/versions/v-fedcba0987654321"
CHAMPION = f"{PARENT}/models/support/aliases/champion"


@pytest.mark.parametrize("asked", [VERSION, CHAMPION])
async def test_a_job_goes_on_from_the_version_that_was_meant_when_it_was_created(
    world: World, asked: str
) -> None:
    created = await world.create(start_version=asked)

    assert created.start_version == VERSION
    assert unplaced(await world.get(created.name)) == created
    lease = await world.claim()
    assert lease is not None
    assert lease.start_manifest_digest == ADAPTER
    assert lease.job.start_version == VERSION


async def test_a_job_without_a_start_version_is_leased_without_one(world: World) -> None:
    assert (await world.create()).start_version == ""
    lease = await world.claim()
    assert lease is not None
    assert lease.start_manifest_digest == ""


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (f"{PARENT}/models/support/versions/v-0", "START_VERSION_NOT_FOUND"),
        (f"{PARENT}/models/support/aliases/nobody", "START_VERSION_NOT_FOUND"),
        (VERSION.replace("default", "other"), "OTHER_PROJECT"),
        (CHAMPION.replace("default", "other"), "OTHER_PROJECT"),
        ("support@champion", "RESOURCE_NAME_INVALID"),
    ],
)
async def test_a_start_version_that_is_not_there_is_refused(
    world: World, asked: str, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create(start_version=asked)

    assert refused(refusal).reason_of == {"tuning_job.start_version": reason}


async def test_a_start_version_of_another_method_is_refused_beside_all_other_faults(
    world: World,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create(
            start_version=CHAMPION, lora=job_pb.LoraMethod(rank=4), model="projects/other/models/m"
        )

    assert refused(refusal).reason_of == {
        "tuning_job.start_version": "OTHER_METHOD",
        "tuning_job.model": "OTHER_PROJECT",
    }


async def test_a_dataset_of_another_project_is_not_even_looked_up(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create(dataset_version="projects/other/datasets/support/versions/latest")

    assert refused(refusal).reason_of == {"tuning_job.dataset_version": "OTHER_PROJECT"}
    assert world.datasets.calls == 0


async def test_a_dataset_service_that_is_down_makes_create_unavailable(world: World) -> None:
    world.datasets.down = True
    request = service_pb.CreateTuningJobRequest(parent=PARENT, tuning_job=world.draft())

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.jobs.CreateTuningJob(request)

    assert refused(refusal).code == "UNAVAILABLE"
    assert refused(refusal).reason == "DEPENDENCY_DOWN"


async def test_a_taken_id_is_refused(world: World) -> None:
    await world.create("taken")

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create("taken")

    assert refused(refusal).code == "ALREADY_EXISTS"
    assert refused(refusal).reason == "TUNING_JOB_EXISTS"


@pytest.mark.parametrize("name", ["nonsense", "projects/P/tuningJobs/x", f"{PARENT}/jobs/x"])
async def test_a_bad_name_is_an_invalid_argument(world: World, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.get(name)

    assert refused(refusal).code == "INVALID_ARGUMENT"


async def test_an_unknown_job_is_not_found(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.get(f"{PARENT}/tuningJobs/nobody")

    assert refused(refusal).code == "NOT_FOUND"
    assert refused(refusal).reason == "TUNING_JOB_NOT_FOUND"


async def test_validate_only_answers_as_if_created_and_creates_nothing(world: World) -> None:
    request = service_pb.CreateTuningJobRequest(
        parent=PARENT, tuning_job_id="dry", tuning_job=world.draft(), validate_only=True
    )

    job = await world.jobs.CreateTuningJob(request)

    assert job.state == job_pb.TuningJob.STATE_QUEUED
    assert job.model == f"{PARENT}/models/support"
    with pytest.raises(grpc.aio.AioRpcError):
        await world.get(job.name)
    await world.create("dry")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.jobs.CreateTuningJob(request)
    assert refused(refusal).reason == "TUNING_JOB_EXISTS"


@pytest.mark.fault("R10")
async def test_a_thousand_creates_with_one_request_id_make_one_job(
    world: World, request_id: str, record_property: Callable[[str, object], None]
) -> None:
    request = service_pb.CreateTuningJobRequest(
        parent=PARENT, tuning_job=world.draft(), request_id=request_id
    )
    began = time.monotonic()

    answers = await asyncio.gather(
        *(world.jobs.CreateTuningJob(request, timeout=60) for _ in range(1000))
    )

    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    listed = await world.jobs.ListTuningJobs(service_pb.ListTuningJobsRequest(parent=PARENT))
    assert [job.name for job in listed.tuning_jobs] == [answers[0].name]
    assert time.monotonic() - began < 30
    figures = {"calls": len(answers), "jobs": 1, "seconds": round(time.monotonic() - began, 3)}
    record_property("figures", json.dumps({"fault": "R10", **figures}))


async def test_a_repeated_create_answers_with_the_job_as_it_now_is(
    world: World, request_id: str
) -> None:
    request = service_pb.CreateTuningJobRequest(
        parent=PARENT, tuning_job=world.draft(), request_id=request_id
    )
    job = await world.jobs.CreateTuningJob(request)
    await world.cancel(job.name)
    world.datasets.down = True  # a repetition needs no other service

    again = await world.jobs.CreateTuningJob(request)

    assert again.name == job.name
    assert again.state == job_pb.TuningJob.STATE_CANCELLED


async def test_a_request_id_belongs_to_one_body(world: World, request_id: str) -> None:
    first = service_pb.CreateTuningJobRequest(
        parent=PARENT, tuning_job=world.draft(), request_id=request_id
    )
    other = service_pb.CreateTuningJobRequest(
        parent=PARENT, tuning_job=world.draft(seed=1), request_id=request_id
    )
    await world.jobs.CreateTuningJob(first)

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.jobs.CreateTuningJob(other)

    assert refused(refusal).reason_of == {"request_id": "REQUEST_ID_REUSED"}


async def test_the_lease_carries_what_was_resolved_at_create(world: World) -> None:
    created = await world.create()

    lease = await world.claim()

    assert lease is not None
    assert lease.job.name == created.name
    assert lease.dataset_digest == DIGEST
    assert lease.base_model.manifest_digest == "ee" * 32
    assert not lease.checkpoints
    assert lease.duration.seconds == 30


async def test_many_gets_at_once_each_get_their_own_answer(world: World) -> None:
    names = [(await world.create()).name for _ in range(5)]
    asked = [*names * 20, f"{PARENT}/tuningJobs/nobody"]

    *jobs, refusal = await asyncio.gather(
        *(world.get(name) for name in asked), return_exceptions=True
    )

    assert [job.name for job in jobs] == names * 20
    assert isinstance(refusal, grpc.aio.AioRpcError)
    assert refusal.code() is grpc.StatusCode.NOT_FOUND
