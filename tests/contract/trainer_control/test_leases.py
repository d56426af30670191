"""NodeLeaseService: claims, heartbeats, endings, and the nodes that come too late."""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import grpc.aio
import pytest
from sqlalchemy import event
from sqlmodel import col, select

from anneal.trainer.v1 import node_lease_service_pb2 as lease_pb
from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1.tuning_job_pb2 import TuningJob
from services.common.ids import content_id
from services.common.store import DatabaseUnavailable
from services.common.tables import OutboxRow
from tests.contract.trainer_control.conftest import Serve
from tests.contract.trainer_control.world import ADAPTER, FAST, PARENT, World, refused

SHORT = replace(FAST, lease_s=0.3)


async def lease_of(world: World, **claim: object) -> lease_pb.Lease:
    lease = await world.claim(**claim)
    assert lease is not None
    return lease


async def until(world: World, name: str, state: TuningJob.State.ValueType) -> TuningJob:
    async with asyncio.timeout(5):
        while (job := await world.get(name)).state != state:
            await asyncio.sleep(0.02)
    return job


async def test_the_oldest_waiting_job_is_claimed_first(world: World) -> None:
    names = [(await world.create()).name for _ in range(3)]

    claimed = [(await lease_of(world)).job.name for _ in range(3)]

    assert claimed == names
    assert await world.claim() is None


async def test_a_claim_raises_the_attempt_and_names_the_node(world: World) -> None:
    await world.create()

    job = (await lease_of(world, node="gpu-7")).job

    assert (job.state, job.attempt, job.node) == (TuningJob.STATE_RUNNING, 1, "gpu-7")
    assert job.HasField("start_time")


async def test_concurrent_nodes_never_share_a_job(world: World) -> None:
    for _ in range(8):
        await world.create()

    leases = await asyncio.gather(*(world.claim(f"node-{number}") for number in range(12)))

    names = [lease.job.name for lease in leases if lease is not None]
    assert len(names) == len(set(names)) == 8


async def test_a_waiting_node_gets_the_job_as_soon_as_it_is_there(serve: Serve) -> None:
    async with serve(replace(FAST, claim_poll_s=60)) as world:
        claim = asyncio.create_task(world.claim(wait_s=10))
        await asyncio.sleep(0.2)
        created = await world.create()
        began = time.monotonic()

        lease = await claim

        assert lease is not None
        assert lease.job.name == created.name
        assert time.monotonic() - began < 1


async def test_a_job_created_at_one_replica_wakes_a_node_at_another(serve: Serve) -> None:
    patient = replace(FAST, claim_poll_s=60)
    async with serve(patient) as here, serve(patient) as there:
        claim = asyncio.create_task(there.claim(wait_s=10))
        await asyncio.sleep(0.2)
        await here.create()

        assert await asyncio.wait_for(claim, 2) is not None


async def test_a_claim_without_work_answers_when_its_time_is_over(world: World) -> None:
    began = time.monotonic()

    assert await world.claim(wait_s=0.3) is None

    assert 0.25 < time.monotonic() - began < 2


async def test_the_same_claim_again_gives_the_same_lease(world: World, request_id: str) -> None:
    await world.create()
    await world.create()

    first = await lease_of(world, request_id=request_id)
    again = await lease_of(world, request_id=request_id)

    assert (again.job.name, again.job.attempt) == (first.job.name, first.job.attempt)


async def test_the_same_claim_twice_at_once_costs_one_attempt(
    world: World, request_id: str
) -> None:
    await world.create()
    await world.create()

    leases = await asyncio.gather(*(world.claim(wait_s=2, request_id=request_id) for _ in range(8)))

    assert len({lease.job.name for lease in leases if lease is not None}) == 1
    assert all(lease is not None and lease.job.attempt == 1 for lease in leases)


async def test_a_claim_whose_lease_has_ended_gets_new_work(world: World, request_id: str) -> None:
    await world.create()
    second = await world.create()
    ended = await lease_of(world, request_id=request_id)
    await world.complete(ended.job)

    lease = await lease_of(world, request_id=request_id)

    assert lease.job.name == second.name


async def test_a_claims_request_id_belongs_to_one_node(world: World, request_id: str) -> None:
    await world.create()
    await world.claim("node-a", request_id=request_id)

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.claim("node-b", request_id=request_id)

    assert refused(refusal).reason_of == {"request_id": "REQUEST_ID_REUSED"}


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"node": "Not An Id"}, "node"),
        ({"node": "n", "request_id": "1"}, "request_id"),
        ({"node": "n", "wait": {"seconds": 31}}, "wait"),
        ({"node": "n", "wait": {"seconds": -1}}, "wait"),
    ],
)
async def test_a_bad_claim_is_refused(
    world: World, request_fields: dict[str, object], field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.nodes.ClaimTuningJob(lease_pb.ClaimTuningJobRequest(**request_fields))

    assert set(refused(refusal).reason_of) == {field}


async def test_a_heartbeat_keeps_the_lease_and_tells_of_a_cancel(serve: Serve) -> None:
    async with serve(SHORT) as world:
        await world.create()
        job = (await lease_of(world)).job
        for _ in range(8):
            await asyncio.sleep(0.1)
            beat = await world.heartbeat(job)
            assert not beat.cancel_requested

        await world.cancel(job.name)

        assert (await world.heartbeat(job)).cancel_requested
        assert (await world.get(job.name)).attempt == 1


async def test_a_node_that_stops_responding_loses_its_job(serve: Serve) -> None:
    async with serve(SHORT) as world:
        await world.create()
        lost = (await lease_of(world, node="node-a")).job

        job = await until(world, lost.name, TuningJob.STATE_QUEUED)

        assert job.error.message == "the node stopped responding"
        for write in (world.heartbeat(lost), world.complete(lost), world.fail(lost, "STORAGE")):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await write
            assert refused(refusal).code == "ABORTED"
            assert refused(refusal).reason == "STALE_ATTEMPT"
        taken = (await lease_of(world, node="node-b")).job
        assert (taken.attempt, taken.node) == (2, "node-b")
        assert not taken.HasField("error")


async def test_a_lost_node_of_a_cancelled_job_ends_the_job(serve: Serve) -> None:
    async with serve(SHORT) as world:
        await world.create()
        job = (await lease_of(world)).job
        await world.cancel(job.name)

        await until(world, job.name, TuningJob.STATE_CANCELLED)


async def test_too_many_lost_nodes_fail_the_job(serve: Serve) -> None:
    async with serve(SHORT) as world:
        created = await world.create(max_attempts=2)
        await lease_of(world)
        await until(world, created.name, TuningJob.STATE_QUEUED)
        await lease_of(world)

        job = await until(world, created.name, TuningJob.STATE_FAILED)

        assert job.error.message == "the node stopped responding"
        assert job.HasField("end_time")


async def test_a_lease_that_is_over_but_not_taken_back_can_still_be_kept(serve: Serve) -> None:
    async with serve(replace(SHORT, reap_every_s=60)) as world:
        await world.create()
        job = (await lease_of(world)).job
        await asyncio.sleep(0.5)

        await world.heartbeat(job)

        assert (await world.complete(job)).state == TuningJob.STATE_SUCCEEDED


@contextmanager
def database_away(world: World) -> Generator[None]:
    """Nobody gets a connection, as long as the block."""

    def refuse(*_: object) -> None:
        raise DatabaseUnavailable

    pool = world.store.engine.sync_engine.pool
    event.listen(pool, "checkout", refuse)
    yield
    event.remove(pool, "checkout", refuse)


async def test_an_outage_takes_no_lease_from_a_node_that_lives(serve: Serve) -> None:
    lease_s = 0.8
    async with serve(replace(FAST, lease_s=lease_s)) as world:
        await world.create()
        job = (await lease_of(world)).job
        with database_away(world):
            await asyncio.sleep(1.1 * lease_s)
        await asyncio.sleep(4 * FAST.reap_every_s)

        await world.heartbeat(job)

        assert (await world.complete(job)).state == TuningJob.STATE_SUCCEEDED


async def test_a_completed_job_becomes_a_version_and_the_registry_hears_of_it_once(
    world: World,
) -> None:
    await world.create()
    job = (await lease_of(world)).job

    done = await world.complete(job)
    again = await world.complete(job)

    assert done.state == TuningJob.STATE_SUCCEEDED
    assert done.model_version == f"{PARENT}/models/support/versions/{content_id(ADAPTER)}"
    assert done.progress.percent == 100
    assert again == done
    told = [row for row in await outbox(world) if row.subject == "anneal.jobs.succeeded"]
    assert [row.message_id for row in told] == [f"{job.name}:succeeded"]
    news = job_pb.TuningJobSucceeded.FromString(told[0].payload)
    assert news.job == done
    assert (news.manifest_digest, news.dataset_digest) == (ADAPTER, "ab" * 32)
    assert (news.base_model_digest, news.code_version) == ("ee" * 32, "1.2.3")
    assert dict(news.metrics) == {"training_loss": 0.5}


async def test_another_result_of_the_same_attempt_is_refused(world: World) -> None:
    await world.create()
    job = (await lease_of(world)).job
    await world.complete(job)

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.complete(job, digest="00" * 32)

    assert refused(refusal).reason == "STALE_ATTEMPT"


async def test_a_failure_told_twice_counts_once(world: World) -> None:
    await world.create(max_attempts=2)
    job = (await lease_of(world)).job

    first = await world.fail(job, "ENGINE_ERROR", "boom")
    again = await world.fail(job, "ENGINE_ERROR", "boom")

    assert first.state == again.state == TuningJob.STATE_QUEUED
    assert first.error.message == "the engine failed: boom"
    assert (await lease_of(world)).job.attempt == 2


async def test_a_failure_repeated_after_another_claim_changes_nothing(world: World) -> None:
    await world.create()
    job = (await lease_of(world)).job
    await world.fail(job, "ENGINE_ERROR", "boom")
    await lease_of(world, node="node-b")

    again = await world.fail(job, "ENGINE_ERROR", "boom")

    assert (again.state, again.attempt, again.node) == (TuningJob.STATE_RUNNING, 2, "node-b")


async def test_a_cancelled_job_has_no_result_even_if_its_node_completes(world: World) -> None:
    await world.create()
    job = (await lease_of(world)).job
    await world.cancel(job.name)

    done = await world.complete(job)

    assert (done.state, done.model_version) == (TuningJob.STATE_CANCELLED, "")
    assert await world.complete(job) == done
    assert all(row.subject != "anneal.jobs.succeeded" for row in await outbox(world))


async def test_a_stopping_node_gives_its_job_back(world: World) -> None:
    await world.create(max_attempts=1)
    job = (await lease_of(world)).job

    back = await world.fail(job, "NODE_STOPPING")

    assert back.state == TuningJob.STATE_QUEUED
    assert (await lease_of(world)).job.attempt == 2


async def test_a_log_with_a_nul_is_kept(world: World) -> None:
    await world.create()
    job = (await lease_of(world)).job

    assert (await world.fail(job, "ENGINE_ERROR", "a\0b")).error.message.endswith("a\ufffdb")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"manifest_digest": "nonsense"}, "manifest_digest"),
        ({"manifest_digest": ADAPTER, "base_model_digest": "00" * 32}, "base_model_digest"),
        ({"manifest_digest": ADAPTER, "event_count": -1}, "event_count"),
    ],
)
async def test_a_bad_result_is_refused(world: World, fields: dict[str, object], field: str) -> None:
    await world.create()
    job = (await lease_of(world)).job

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.nodes.CompleteTuningJob(
            lease_pb.CompleteTuningJobRequest(name=job.name, attempt=job.attempt, **fields)
        )

    assert set(refused(refusal).reason_of) == {field}
    assert (await world.get(job.name)).state == TuningJob.STATE_RUNNING


async def test_a_training_that_diverged_fails_its_job_at_once_and_says_why(world: World) -> None:
    await world.create(max_attempts=5)
    lease = await lease_of(world)

    ended = await world.fail(lease.job, "DIVERGED", "step 7 has loss nan")

    assert (ended.state, ended.attempt) == (job_pb.TuningJob.STATE_FAILED, 1)
    assert ended.error.message == "the training diverged: step 7 has loss nan"
    assert await world.claim() is None


async def test_a_failure_without_a_cause_is_refused(world: World) -> None:
    await world.create()
    job = (await lease_of(world)).job

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.fail(job, "UNSPECIFIED", "x" * 8193)

    assert set(refused(refusal).reason_of) == {"cause", "message"}


async def outbox(world: World) -> list[OutboxRow]:
    async with world.store.reading() as tables:
        rows = await tables.session.exec(select(OutboxRow).order_by(col(OutboxRow.id)))
        return list(rows)
