"""What becomes of checkpoints: kept by the job's policy, told to later attempts, and removed."""

import asyncio
import hashlib
from datetime import UTC

import grpc.aio
import pytest
from sqlmodel import select, update

from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1.tuning_job_pb2 import TrainingParameters, TuningJob
from services.common.blobs import Blobs, BlobsUnavailable
from services.trainer.checkpoint_owners import owner_of_one
from services.trainer.control.adapters.tables import CheckpointRow, ReleaseRow
from services.trainer.control.domain.job import STRAGGLING
from services.trainer.control.domain.releases import Releases
from tests.contract.trainer_control.world import World, refused

DIGEST = "ab" * 32
WEIGHTS = b"weights"


def checkpoint(step: int, attempt: int = 0, **fields: float) -> job_pb.Checkpoint:
    return job_pb.Checkpoint(
        step=step, attempt=attempt, manifest_digest=DIGEST, size_bytes=7, **fields
    )


async def claimed(world: World) -> job_pb.TuningJob:
    lease = await world.claim()
    assert lease is not None
    return lease.job


async def told_to_next(world: World) -> list[tuple[int, int]]:
    """The attempts and steps of the checkpoints in the next lease."""
    lease = await world.claim()
    assert lease is not None
    return [(one.attempt, one.step) for one in lease.checkpoints]


async def store(world: World, job: job_pb.TuningJob, step: int, **fields: float) -> Blobs:
    """As a node does: the blobs first."""
    owned = world.blobs.owned_by(owner_of_one(job.uid, job.attempt, step))
    await owned.put(WEIGHTS)
    await world.heartbeat(job, step=step, checkpoint=checkpoint(step, **fields))
    return owned


async def is_there(owned: Blobs) -> bool:
    return await owned.exists(hashlib.sha256(WEIGHTS).hexdigest())


async def test_a_later_attempt_is_told_of_all_that_is_kept_the_newest_first(world: World) -> None:
    await world.create(training=TrainingParameters(keep_last_checkpoints=2))
    job = await claimed(world)
    for step, loss in ((0, 0.5), (10, 0.25), (20, 0.75), (30, 0.5)):
        await world.heartbeat(job, step=step, checkpoint=checkpoint(step, validation_loss=loss))
    await world.heartbeat(job, step=35)
    await world.fail(job, "ENGINE_KILLED")

    lease = await world.claim()

    assert lease is not None
    assert list(lease.checkpoints) == [
        checkpoint(30, attempt=1, validation_loss=0.5),
        checkpoint(20, attempt=1, validation_loss=0.75),
        checkpoint(10, attempt=1, validation_loss=0.25),
    ]


async def test_a_checkpoint_before_the_first_step_is_one(world: World) -> None:
    await world.create()
    job = await claimed(world)
    await world.heartbeat(job, checkpoint=checkpoint(0))
    await world.fail(job, "ENGINE_KILLED")

    assert await told_to_next(world) == [(1, 0)]


async def test_what_a_node_refused_no_later_attempt_is_told_of(world: World) -> None:
    """The damaged newest costs the steps since the one before, and is not met with again."""
    await world.create(max_attempts=3)
    first = await claimed(world)
    for step in (390, 400):
        await world.heartbeat(first, step=step, checkpoint=checkpoint(step))
    await world.fail(first, "ENGINE_KILLED")
    second = await claimed(world)
    await world.heartbeat(second, refused_checkpoints=[checkpoint(400, attempt=1)])
    await world.fail(second, "ENGINE_KILLED")

    assert await told_to_next(world) == [(1, 390)]


async def test_an_attempt_that_began_anew_leaves_its_own_checkpoints(world: World) -> None:
    await world.create()
    first = await claimed(world)
    await world.heartbeat(first, step=400, checkpoint=checkpoint(400))
    await world.fail(first, "ENGINE_KILLED")
    second = await claimed(world)
    await world.heartbeat(second, refused_checkpoints=[checkpoint(400, attempt=1)])
    await world.heartbeat(second, step=50, checkpoint=checkpoint(50))
    await world.fail(second, "ENGINE_KILLED")

    assert await told_to_next(world) == [(2, 50)]


async def test_a_checkpoint_told_again_or_late_changes_nothing(world: World) -> None:
    await world.create(training=TrainingParameters(keep_last_checkpoints=1))
    job = await claimed(world)
    for step in (10, 20, 20, 10):
        await world.heartbeat(job, step=20, checkpoint=checkpoint(step))
    await world.fail(job, "ENGINE_KILLED")

    assert await told_to_next(world) == [(1, 20)]


async def test_the_checkpoint_of_a_stale_attempt_is_refused(world: World) -> None:
    await world.create()
    stale = await claimed(world)
    await world.fail(stale, "ENGINE_KILLED")
    current = await claimed(world)

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.heartbeat(stale, step=10, checkpoint=checkpoint(10))

    assert refused(refusal).reason == "STALE_ATTEMPT"
    await world.fail(current, "ENGINE_KILLED")
    assert await told_to_next(world) == []


async def test_a_checkpoint_whose_loss_is_no_number_is_refused(world: World) -> None:
    await world.create()
    job = await claimed(world)

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.heartbeat(job, checkpoint=checkpoint(10, validation_loss=float("nan")))

    assert set(refused(refusal).reason_of) == {"checkpoint.validation_loss"}


async def test_what_the_policy_drops_is_removed_and_nothing_else(world: World) -> None:
    await world.create(training=TrainingParameters(keep_last_checkpoints=1))
    job = await claimed(world)
    others = await world.blobs.put(WEIGHTS)
    dropped = await store(world, job, 10)
    kept = await store(world, job, 20)

    await Releases(world.store, world.blobs).remove_all()

    assert (await is_there(dropped), await is_there(kept)) == (False, True)
    assert await world.blobs.exists(others.digest), "equal bytes that somebody else stored"


async def test_a_job_that_has_ended_leaves_no_checkpoint(world: World) -> None:
    await world.create()
    job = await claimed(world)
    told = await store(world, job, 10)
    untold = world.blobs.owned_by(owner_of_one(job.uid, job.attempt, 20))
    await untold.put(WEIGHTS)  # by a node that died before it told of it
    await world.complete(job)

    await Releases(world.store, world.blobs).remove_all()

    assert (await is_there(told), await is_there(untold)) == (False, False)
    assert (await rows(world))[0] == []


async def test_what_a_node_stores_that_does_not_hear_of_the_end_is_removed_a_day_later(
    world: World,
) -> None:
    await world.create()
    job = await claimed(world)
    await world.cancel(job.name)
    ended = await world.fail(job, "CANCELLED")
    releases = Releases(world.store, world.blobs)
    await releases.remove_all()
    late = world.blobs.owned_by(owner_of_one(job.uid, job.attempt, 20))
    await late.put(WEIGHTS)

    await releases.remove_all()
    (left,) = (await rows(world))[1]
    async with world.store.writing() as tables:
        await tables.session.exec(update(ReleaseRow).values(due_time=await tables.now()))
    await releases.remove_all()

    assert left.due_time - ended.end_time.ToDatetime(UTC) == STRAGGLING
    assert not await is_there(late)
    assert await rows(world) == ([], [])


async def test_a_waiting_job_that_is_cancelled_leaves_no_checkpoint(world: World) -> None:
    await world.create()
    job = await claimed(world)
    told = await store(world, job, 10)
    await world.fail(job, "NODE_STOPPING")
    assert (await world.cancel(job.name)).state == TuningJob.STATE_CANCELLED

    await Releases(world.store, world.blobs).remove_all()

    assert not await is_there(told)


async def test_what_could_not_be_removed_is_removed_later(world: World) -> None:
    await world.create()
    job = await claimed(world)
    told = await store(world, job, 10)
    releases = Releases(world.store, AwayOnce(world.blobs), every_s=0.01)
    await world.complete(job)

    async with asyncio.timeout(5):
        removing = asyncio.create_task(releases.run())
        while await is_there(told) or (await rows(world))[1][0].again_time is not None:
            await asyncio.sleep(0.02)
        removing.cancel()


class AwayOnce:
    """A blob store that does not answer at first, and then only when it has done its work."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._calls = 0

    async def remove_owned(self, owner: str) -> None:
        self._calls += 1
        if self._calls > 1:
            await self._blobs.remove_owned(owner)
        if self._calls < 3:
            raise BlobsUnavailable


async def rows(world: World) -> tuple[list[CheckpointRow], list[ReleaseRow]]:
    async with world.store.reading() as tables:
        checkpoints = await tables.session.exec(select(CheckpointRow))
        releases = await tables.session.exec(select(ReleaseRow))
        return list(checkpoints), list(releases)
