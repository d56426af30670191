"""A job for another backend, from its creation to its end, with plain PEFT in unsloth's place."""

from pathlib import Path

import pytest

from anneal.trainer.v1 import tuning_job_pb2 as pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from tests.contract.trainer_node.world import PARENT, TRAINING, World, assert_no_gap, steps_of

FAKES = Path(__file__).parents[2] / "unit" / "trainer_backends" / "fakes"


async def create(world: World, packing: bool = False) -> pb.TuningJob:
    settings = TRAINING | {"max_steps": 6, "evaluate_every": 4, "packing": packing}
    job = pb.TuningJob(
        base_model="baseModels/tiny-base",
        dataset_version=f"{PARENT}/datasets/support/versions/latest",
        backend=pb.BACKEND_UNSLOTH,
        lora=pb.LoraMethod(rank=4, dropout=0.0),
        training=pb.TrainingParameters(precision=pb.TrainingParameters.PRECISION_AUTO, **settings),
    )
    request = service_pb.CreateTuningJobRequest(parent=PARENT, tuning_job=job)
    return await world.jobs.CreateTuningJob(request)


async def test_a_job_for_unsloth_is_trained_by_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAKES))
    async with world.node():
        job = await create(world)
        events = await world.history(job)
    ended = await world.get(job)
    assert (ended.state, ended.backend) == (pb.TuningJob.STATE_SUCCEEDED, pb.BACKEND_UNSLOTH)
    assert_no_gap(events)
    assert steps_of(events) == [1, 2, 3, 4, 5, 6]
    assert [e.evaluation.step for e in events if e.HasField("evaluation")] == [4, 6]
    said = [event.log.message for event in events if event.HasField("log")]
    assert any(message.startswith("unsloth trains this job: it writes no") for message in said)
    result = await world.result(job)
    assert result.metrics["validation_loss"] > 0
    assert await world.adapter(job)


async def test_a_node_without_the_tool_leaves_the_job_to_others(world: World) -> None:
    job = await create(world)
    async with world.node():
        first = await world.create("first", max_steps=2)
        await world.history(first)
    assert (await world.get(first)).state == pb.TuningJob.STATE_SUCCEEDED
    assert (await world.get(job)).state == pb.TuningJob.STATE_QUEUED
