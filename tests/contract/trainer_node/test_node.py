"""Nodes and what befalls them, with real engines, as callers of the trainer see it."""

import asyncio
import importlib.metadata
from pathlib import Path

import pytest

from anneal.trainer.v1.tuning_job_pb2 import (
    TrainingParameters,
    TuningJob,
    TuningJobEvent,
)
from services.common.blobs import Blob, BlobsUnavailable, ObstoreBlobs
from services.common.bus_nats import NatsBus
from services.common.testing.nats import NatsServer
from tests.contract.trainer_node.conftest import Serve
from tests.contract.trainer_node.world import TRAINING, World, assert_no_gap, steps_of

pytestmark = pytest.mark.usefixtures("quick_engines")

ALL_STEPS = list(range(1, TRAINING["max_steps"] + 1))


async def test_a_job_runs_to_its_end_and_tells_all_of_it(world: World, undisturbed: str) -> None:
    async with world.node():
        job = await world.create("first")
        events = await world.history(job)
    assert_no_gap(events)
    assert steps_of(events) == ALL_STEPS
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds.count("started"), kinds.count("evaluation")) == (1, 2)
    assert (kinds.count("checkpoint"), kinds.count("state_change")) == (8, 3)
    ended = await world.get(job)
    assert ended.state == TuningJob.STATE_SUCCEEDED
    assert (ended.attempt, ended.progress.percent) == (1, 100)
    assert await world.adapter(job) == undisturbed
    await assert_result_is_whole(world, job)


async def assert_result_is_whole(world: World, job: TuningJob) -> None:
    result = await world.result(job)
    version = importlib.metadata.version("anneal")
    assert (result.base_model_digest, result.code_version) == (world.material.base_model, version)
    assert result.metrics["steps"] == TRAINING["max_steps"]
    assert result.metrics["validation_loss"] > 0
    manifest = await world.manifest(result.manifest_digest)
    assert manifest.meta == {"tuning_job": job.name, "code_version": version}
    paths = [file.path for file in manifest.files]
    assert paths == ["adapter_config.json", "adapter_model.safetensors"]
    for file in manifest.files:
        assert len(await world.material.blobs.read(file.sha256)) == file.size_bytes


async def test_a_killed_engine_costs_the_steps_since_its_checkpoint_and_no_byte(
    world: World, undisturbed: str
) -> None:
    async with world.node() as node:
        job = await world.create("first")
        await world.reached(job, "checkpoint", 10)
        await world.reached(job, "step", 13)
        node.kill_engine()
        events = await world.history(job)
    ended = await world.get(job)
    assert (ended.state, ended.attempt) == (TuningJob.STATE_SUCCEEDED, 2)
    assert_no_gap(events)
    assert sorted(set(steps_of(events))) == ALL_STEPS
    assert 11 <= steps_of(events, attempt=2)[0] <= steps_of(events, attempt=1)[-1] + 1
    assert "the engine was killed: SIGKILL at step" in "".join(
        event.state_change.cause for event in events
    )
    assert_the_same_steps_were_done_again(ended, events)
    assert await world.adapter(job) == undisturbed


def assert_the_same_steps_were_done_again(job: TuningJob, events: list[TuningJobEvent]) -> None:
    (certificate,) = job.resume_certificates
    again = set(steps_of(events, attempt=1)) & set(steps_of(events, attempt=2))
    assert certificate.exact
    assert certificate.checkpoint_digest == certificate.restored_digest
    assert (certificate.attempt, certificate.step) == (2, steps_of(events, attempt=2)[0] - 1)
    assert (certificate.replayed_steps, certificate.max_loss_difference) == (len(again), 0)


async def test_a_job_goes_on_from_the_parameters_of_another_s_result(world: World) -> None:
    async with world.node():
        first = await world.create("first", max_steps=5)
        await world.history(first)
        result = await world.result(first)
        world.results.register(result)
        start_version = result.job.model_version
        still = await world.create(
            "still", start_version=start_version, max_steps=1, learning_rate=1e-30
        )
        await world.history(still)
    assert still.start_version == start_version
    assert await world.adapter(still) == await world.adapter(first)


async def test_an_engine_that_is_killed_each_time_fails_the_job(world: World) -> None:
    async with world.node() as node:
        job = await world.create("first", max_attempts=2)
        for attempt in (1, 2):
            while (await world.get(job)).attempt < attempt or node.engine() is None:
                await asyncio.sleep(0.01)
            node.kill_engine()
        events = await world.history(job)
    assert_no_gap(events)
    ended = await world.get(job)
    assert (ended.state, ended.attempt) == (TuningJob.STATE_FAILED, 2)
    assert "the engine was killed: SIGKILL at step 0" in ended.error.message


async def test_a_cancelled_job_stops_and_says_so(world: World) -> None:
    async with world.node() as node:
        job = await world.create("first", max_steps=100_000, checkpoint_every=0, evaluate_every=0)
        await world.reached(job, "step", 3)
        await world.cancel(job)
        events = await asyncio.wait_for(world.history(job), 30)
        assert (await world.get(job)).state == TuningJob.STATE_CANCELLED
        assert node.engine() is None
    assert_no_gap(events)


async def test_a_job_cancelled_before_its_first_step_is_cancelled_not_broken(world: World) -> None:
    async with world.node() as node:
        job = await world.create("first", max_steps=100_000)
        while node.engine() is None:
            await asyncio.sleep(0.01)
        await world.cancel(job)
        await asyncio.wait_for(world.history(job), 30)
        assert (await world.get(job)).state == TuningJob.STATE_CANCELLED
        next_job = await world.create("second", max_steps=1)
        await asyncio.wait_for(world.history(next_job), 60)
        assert (await world.get(next_job)).state == TuningJob.STATE_SUCCEEDED


async def test_a_node_that_stops_hands_its_job_to_another(world: World, undisturbed: str) -> None:
    job = await world.create("first", max_attempts=1)
    async with world.node("node-a"):
        await world.reached(job, "step", 3)
    assert (await world.get(job)).state == TuningJob.STATE_QUEUED
    async with world.node("node-b"):
        events = await world.history(job)
    assert_no_gap(events)
    assert steps_of(events) == ALL_STEPS, "the first node left a checkpoint of its last step"
    ended = await world.get(job)
    assert (ended.state, ended.node, ended.attempt) == (TuningJob.STATE_SUCCEEDED, "node-b", 2)
    assert await world.adapter(job) == undisturbed


async def test_a_paused_job_goes_on_where_it_stood_and_costs_no_byte(
    world: World, undisturbed: str
) -> None:
    async with world.node():
        job = await world.create("first", max_attempts=1)
        await world.reached(job, "step", 13)
        await world.pause(job)
        await world.resume(job)
        events = await world.history(job)
    assert_no_gap(events)
    assert steps_of(events) == ALL_STEPS, "a checkpoint of the last step was left"
    ended = await world.get(job)
    assert (ended.state, ended.attempt) == (TuningJob.STATE_SUCCEEDED, 2)
    assert await world.adapter(job) == undisturbed


async def test_a_job_whose_deadline_passes_succeeds_with_the_best_model_so_far(
    world: World,
) -> None:
    rising = {
        "learning_rate": 0.3,
        "warmup_steps": 0,
        "schedule": TrainingParameters.SCHEDULE_CONSTANT,
    }
    async with world.node():
        job = await world.create("first", max_steps=100_000, evaluate_every=5, **rising)
        await world.reached(job, "step", 33)
        await world.let_time_run_out(job)
        events = await world.history(job)
    assert_no_gap(events)
    ended = await world.get(job)
    assert ended.state == TuningJob.STATE_SUCCEEDED, ended.error
    losses = {
        event.evaluation.step: event.evaluation.loss
        for event in events
        if event.WhichOneof("event") == "evaluation"
    }
    result = await world.result(job)
    assert result.metrics["steps"] == max(steps_of(events)) < 100_000
    assert result.metrics["validation_loss"] == min(losses.values())
    best = min(losses, key=losses.__getitem__)
    notes = "".join(event.log.message for event in events)
    assert f"the result is the model of step {best}, the best" in notes or best == max(losses)


async def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before_and_no_byte(
    world: World, undisturbed: str
) -> None:
    job = await world.create("first")
    async with world.node("node-a"):
        await world.reached(job, "checkpoint", 10)
        await world.reached(job, "step", 12)
    *_, whole, newest = world.checkpoints(job, attempt=1)
    world.damage_checkpoint(job, 1, newest)
    async with world.node("node-b"):
        events = await world.history(job)
    assert_no_gap(events)
    assert steps_of(events, attempt=2) == ALL_STEPS[whole:]
    warnings = [event.log.message for event in events if "of no use" in event.log.message]
    assert [text.split(":")[0] for text in warnings] == [
        f"the checkpoint of step {newest} is of no use"
    ]
    assert (await world.get(job)).state == TuningJob.STATE_SUCCEEDED
    assert await world.adapter(job) == undisturbed


async def test_a_job_that_can_not_be_trained_fails_once_and_says_why(world: World) -> None:
    async with world.node():
        job = await world.create("first", max_sequence_tokens=8)
        events = await world.history(job)
    assert_no_gap(events)
    ended = await world.get(job)
    assert (ended.state, ended.attempt) == (TuningJob.STATE_FAILED, 1)
    assert "none of the 80 examples has a token to learn from" in ended.error.message


class AwayBlobs(ObstoreBlobs):
    """A blob store that takes nothing while it is `away`."""

    away = False

    async def put_file(self, path: Path) -> Blob:
        if self.away:
            raise BlobsUnavailable
        return await super().put_file(path)


async def test_an_outage_of_the_bus_and_the_blobs_loses_nothing(
    serve: Serve, nats: NatsServer, undisturbed: str
) -> None:
    ours = await NatsBus.connect(nats.url, name="control")
    nodes = await NatsBus.connect(nats.url, name="node")
    async with serve(ours) as world:
        blobs = AwayBlobs.open((world.scratch / "blobs").as_uri())
        async with world.node(bus=nodes, blobs=blobs):
            job = await world.create("first")
            await world.reached(job, "checkpoint", 5)
            blobs.away = True
            nats.kill()
            await asyncio.sleep(2)
            nats.start()
            blobs.away = False
            events = await world.history(job)
        ended = await world.get(job)
        assert (ended.state, ended.attempt) == (TuningJob.STATE_SUCCEEDED, 1)
        assert_no_gap(events)
        assert steps_of(events) == ALL_STEPS
        assert await world.adapter(job) == undisturbed
    await nodes.close()
    await ours.close()
