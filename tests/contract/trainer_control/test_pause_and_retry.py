"""PauseTuningJob, ResumeTuningJob, RetryTuningJob, ListTuningJobAttempts, and deadlines."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from anneal.trainer.v1 import node_lease_service_pb2 as lease_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from anneal.trainer.v1.tuning_job_pb2 import Checkpoint, TuningJob, TuningJobAttempt
from services.trainer.checkpoint_owners import owner_of_all
from services.trainer.control.domain.job import FAILED_KEEPS
from services.trainer.control.domain.names import TuningJobName
from tests.contract.trainer_control.world import ADAPTER, World, refused


async def claimed(world: World, node: str = "node-a") -> TuningJob:
    lease = await world.claim(node)
    assert lease is not None
    return lease.job


async def pause(world: World, name: str, etag: str = "") -> TuningJob:
    return await world.jobs.PauseTuningJob(service_pb.PauseTuningJobRequest(name=name, etag=etag))


async def resume(world: World, name: str) -> TuningJob:
    return await world.jobs.ResumeTuningJob(service_pb.ResumeTuningJobRequest(name=name))


async def retry(world: World, name: str, **fields: Any) -> TuningJob:
    return await world.jobs.RetryTuningJob(service_pb.RetryTuningJobRequest(name=name, **fields))


async def attempts(world: World, name: str, **fields: Any) -> list[TuningJobAttempt]:
    request = service_pb.ListTuningJobAttemptsRequest(parent=name, **fields)
    return list((await world.jobs.ListTuningJobAttempts(request)).attempts)


async def failed(world: World, **fields: Any) -> TuningJob:
    """A job that has failed for good after a checkpoint of step 10."""
    await world.create(**fields)
    job = await claimed(world)
    await world.heartbeat(job, step=10, checkpoint=Checkpoint(step=10, manifest_digest=ADAPTER))
    return await world.fail(job, "INVALID_JOB", "the data can not be learnt from")


async def test_a_waiting_job_is_paused_at_once_and_no_node_gets_it(world: World) -> None:
    created = await world.create()

    paused = await pause(world, created.name)

    assert paused.state == TuningJob.STATE_PAUSED
    assert await pause(world, created.name) == paused
    assert await world.claim() is None


async def test_a_running_job_pauses_when_its_node_has_stopped_and_goes_on_later(
    world: World,
) -> None:
    await world.create()
    job = await claimed(world)

    pausing = await pause(world, job.name)
    beat = await world.heartbeat(
        job, step=7, checkpoint=Checkpoint(step=7, manifest_digest=ADAPTER)
    )
    paused = await world.fail(job, "PAUSED")
    resumed = await resume(world, job.name)
    lease = await world.claim("node-b")

    assert pausing.state == TuningJob.STATE_PAUSING
    assert (beat.directive, beat.cancel_requested) == (lease_pb.DIRECTIVE_PAUSE, True)
    assert paused.state == TuningJob.STATE_PAUSED
    assert resumed.state == TuningJob.STATE_QUEUED
    assert lease is not None
    assert (lease.job.attempt, lease.checkpoints[0].step) == (2, 7)


async def test_a_paused_job_costs_no_attempt(world: World) -> None:
    await world.create(max_attempts=1)
    job = await claimed(world)
    await pause(world, job.name)

    assert (await world.fail(job, "PAUSED")).state == TuningJob.STATE_PAUSED


async def test_a_node_that_knows_only_how_to_cancel_pauses_too(world: World) -> None:
    await world.create(max_attempts=1)
    job = await claimed(world)
    await pause(world, job.name)

    assert (await world.fail(job, "CANCELLED")).state == TuningJob.STATE_PAUSED


async def test_an_engine_that_fails_while_it_is_to_pause_leaves_the_job_paused(
    world: World,
) -> None:
    await world.create()
    job = await claimed(world)
    await pause(world, job.name)

    ended = await world.fail(job, "ENGINE_KILLED")

    assert ended.state == TuningJob.STATE_PAUSED
    assert ended.error.message


async def test_a_job_that_is_done_before_it_hears_of_the_pause_has_succeeded(world: World) -> None:
    await world.create()
    job = await claimed(world)
    await pause(world, job.name)

    assert (await world.complete(job)).state == TuningJob.STATE_SUCCEEDED


async def test_a_job_can_be_cancelled_while_it_pauses_and_while_it_is_paused(
    world: World,
) -> None:
    await world.create()
    job = await claimed(world)
    await pause(world, job.name)
    cancelling = await world.cancel(job.name)
    waiting = await world.create()
    await pause(world, waiting.name)

    assert cancelling.state == TuningJob.STATE_CANCELLING
    assert (await world.cancel(waiting.name)).state == TuningJob.STATE_CANCELLED


async def test_a_pausing_job_can_not_be_resumed_yet(world: World) -> None:
    await world.create()
    job = await claimed(world)
    await pause(world, job.name)

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await resume(world, job.name)

    assert refused(refusal).reason == "WRONG_STATE"
    assert refused(refusal).metadata["state"] == "PAUSING"


async def test_an_etag_of_an_earlier_pause_is_stale(world: World) -> None:
    created = await world.create()
    await pause(world, created.name)
    await resume(world, created.name)

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await pause(world, created.name, created.etag)

    assert refused(refusal).reason == "STALE_ETAG"


async def test_a_retried_job_goes_on_from_the_last_checkpoint_of_the_failed_one(
    world: World,
) -> None:
    first = await failed(world, seed=7)

    again = await retry(world, first.name, tuning_job_id="again")
    lease = await world.claim()

    assert (again.state, again.retry_of, again.seed) == (TuningJob.STATE_QUEUED, first.name, 7)
    assert (await world.get(first.name)).retried_as == again.name
    assert lease is not None
    assert (lease.job.name, lease.job.attempt) == (again.name, 2)
    assert [(one.step, one.job_uid) for one in lease.checkpoints] == [(10, first.uid)]


async def test_checkpoints_that_were_taken_over_are_removed_with_the_new_jobs_own(
    world: World,
) -> None:
    first = await failed(world)
    await retry(world, first.name)
    job = await claimed(world)

    async with world.store.reading() as unit:
        long_after = await unit.now() + 2 * FAILED_KEEPS
        assert await unit.checkpoints.released(long_after, 10) == []
    await world.complete(job)
    async with world.store.reading() as unit:
        owners = {owner_of_all(first.uid), owner_of_all(job.uid)}
        assert set(await unit.checkpoints.released(await unit.now(), 10)) <= owners


async def test_a_failed_jobs_checkpoints_stay_for_a_while(world: World) -> None:
    first = await failed(world)

    async with world.store.reading() as unit:
        now = await unit.now()
        assert await unit.checkpoints.released(now, 10) == []
        assert await unit.checkpoints.released(now + FAILED_KEEPS, 10) == [owner_of_all(first.uid)]


async def test_a_job_is_retried_once_whoever_asks_again(world: World) -> None:
    first = await failed(world)
    request_id = str(uuid.uuid4())

    again = await retry(world, first.name, request_id=request_id)

    assert await retry(world, first.name, request_id=request_id) == again
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await retry(world, first.name)
    assert refused(refusal).reason == "ALREADY_RETRIED"
    assert refused(refusal).metadata["retried_as"] == again.name


async def test_only_a_job_that_failed_can_be_retried(world: World) -> None:
    created = await world.create()

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await retry(world, created.name)

    assert refused(refusal).reason == "WRONG_STATE"


async def test_attempts_tell_who_did_what_and_what_was_done_twice(world: World) -> None:
    await world.create()
    one = await claimed(world, "node-a")
    await world.heartbeat(one, step=10)
    await world.fail(one, "ENGINE_KILLED", "signal 9")
    two = await claimed(world, "node-b")
    async with world.store.writing() as unit:
        await unit.attempts.tell_start(TuningJobName.parse(two.name), 2, 6)
    await world.heartbeat(two, step=12)
    await world.complete(two)

    first, second = await attempts(world, one.name)

    assert (first.node, first.last_step, first.redone_steps) == ("node-a", 10, 0)
    assert first.outcome == TuningJobAttempt.OUTCOME_ENGINE_KILLED
    assert first.message == "signal 9"
    assert (second.node, second.steps, second.redone_steps) == ("node-b", 6, 4)
    assert second.outcome == TuningJobAttempt.OUTCOME_COMPLETED
    assert second.duration.ToTimedelta() > timedelta()
    assert second.name == f"{one.name}/attempts/2"
    assert [it.attempt for it in await attempts(world, one.name, page_size=1)] == [1]


async def test_a_running_job_whose_time_is_over_is_told_to_finish(world: World) -> None:
    await world.create(deadline_time=soon(3))
    job = await claimed(world)
    before = await world.heartbeat(job, step=1)
    await asyncio.sleep(3)

    after = await world.heartbeat(job, step=2)

    assert before.directive == lease_pb.DIRECTIVE_UNSPECIFIED
    assert (after.directive, after.cancel_requested) == (lease_pb.DIRECTIVE_FINISH, False)
    assert (await world.complete(job)).state == TuningJob.STATE_SUCCEEDED


async def test_a_job_that_no_node_took_in_time_fails(world: World) -> None:
    created = await world.create(deadline_time=soon(0.3))

    ended = await reaching(world, created.name, TuningJob.STATE_FAILED)

    assert "deadline passed" in ended.error.message


async def test_a_waiting_job_with_a_checkpoint_is_given_to_a_node_to_finish(world: World) -> None:
    await world.create(deadline_time=soon(3))
    job = await claimed(world)
    await world.heartbeat(job, step=3, checkpoint=Checkpoint(step=3, manifest_digest=ADAPTER))
    await pause(world, job.name)
    await world.fail(job, "PAUSED")

    await reaching(world, job.name, TuningJob.STATE_QUEUED)
    lease = await world.claim()

    assert lease is not None
    assert lease.directive == lease_pb.DIRECTIVE_FINISH


async def test_a_deadline_in_the_past_is_refused(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create(deadline_time=soon(-1))

    assert refused(refusal).reason_of == {"tuning_job.deadline_time": "DEADLINE_PASSED"}


async def test_a_deadline_that_no_calendar_has_is_refused(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create(deadline_time=Timestamp(seconds=10**15))

    assert list(refused(refusal).reason_of) == ["tuning_job.deadline_time"]


async def test_a_job_that_saved_nothing_but_its_beginning_fails_at_its_deadline(
    world: World,
) -> None:
    await world.create(deadline_time=soon(3))
    job = await claimed(world)
    await world.heartbeat(job, step=0, checkpoint=Checkpoint(step=0, manifest_digest=ADAPTER))
    await world.fail(job, "NODE_STOPPING")

    assert (await reaching(world, job.name, TuningJob.STATE_FAILED)).error.message


def soon(seconds: float) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return time


async def reaching(world: World, name: str, state: TuningJob.State.ValueType) -> TuningJob:
    async with asyncio.timeout(15):
        while (job := await world.get(name)).state != state:
            await asyncio.sleep(0.05)
    return job
