"""WatchTuningJob: replay, then live, without a gap or a duplicate."""

import asyncio
from dataclasses import replace

import grpc.aio
import pytest

from anneal.trainer.v1.tuning_job_pb2 import TuningJob
from anneal.trainer.v1.tuning_job_service_pb2 import WatchTuningJobRequest
from anneal.trainer.v1.tuning_job_service_pb2_grpc import TuningJobServiceStub
from anneal.transport import open_channel
from tests.contract.trainer_control.conftest import Serve
from tests.contract.trainer_control.world import FAST, World, refused

EVENTS = 30


async def claimed(world: World) -> TuningJob:
    await world.create()
    lease = await world.claim()
    assert lease is not None
    return lease.job


async def trained(world: World, job: TuningJob, pause_s: float = 0.005) -> None:
    for number in range(1, EVENTS + 1):
        await world.tell(job, number)
        await asyncio.sleep(pause_s)
    await world.complete(job, event_count=EVENTS)


async def sequences(world: World, name: str, after: int = 0) -> list[int]:
    return [event.sequence for event in await world.history(name, after)]


WHOLE = list(range(1, EVENTS + 4))


async def test_watchers_that_come_at_any_time_see_everything_once(world: World) -> None:
    job = await claimed(world)
    watchers = [asyncio.create_task(sequences(world, job.name)) for _ in range(5)]
    training = asyncio.create_task(trained(world, job))
    for _ in range(10):
        await asyncio.sleep(0.02)
        watchers.append(asyncio.create_task(sequences(world, job.name)))

    await training

    assert all(seen == WHOLE for seen in await asyncio.gather(*watchers))
    assert await sequences(world, job.name) == WHOLE


async def test_a_watcher_can_go_on_at_every_place(world: World) -> None:
    job = await claimed(world)
    training = asyncio.create_task(trained(world, job, 0.02))

    async def broken_off_at(place: int) -> list[int]:
        """Loses its connection after `place`, and connects again."""
        seen: list[int] = []
        watch = world.watch(job.name)
        async for answer in watch:
            seen.append(answer.event.sequence)
            if len(seen) == place:
                watch.cancel()
                break
        return seen + await sequences(world, job.name, seen[-1])

    seen = await asyncio.gather(*(broken_off_at(place) for place in WHOLE))
    await training

    assert all(one == WHOLE for one in seen)


async def test_a_watch_after_the_last_event_of_an_ended_job_ends_at_once(world: World) -> None:
    job = await claimed(world)
    await world.complete(job)

    assert await sequences(world, job.name, 3) == []
    assert await sequences(world, job.name, 99) == []


async def test_a_cancel_ends_the_watch_with_the_final_state(world: World) -> None:
    created = await world.create()
    watching = asyncio.create_task(world.history(created.name))
    await asyncio.sleep(0.1)

    await world.cancel(created.name)

    events = await asyncio.wait_for(watching, 2)
    assert events[-1].state_change.to == TuningJob.STATE_CANCELLED


async def test_a_watcher_at_one_replica_sees_what_another_one_wrote(serve: Serve) -> None:
    async with serve(FAST) as here, serve(FAST, watch_poll_s=0.1) as there:
        created = await here.create()
        watching = asyncio.create_task(there.history(created.name))
        await asyncio.sleep(0.2)

        await here.cancel(created.name)

        assert len(await asyncio.wait_for(watching, 2)) == 2


async def test_three_hundred_watchers_see_everything(serve: Serve) -> None:
    async with serve(replace(FAST, events_grace_s=20)) as world:
        job = await claimed(world)
        watchers = [asyncio.create_task(sequences(world, job.name)) for _ in range(300)]
        await asyncio.sleep(0.5)

        await trained(world, job)

        assert all(seen == WHOLE for seen in await asyncio.gather(*watchers))


async def test_a_long_history_comes_in_pages(world: World) -> None:
    job = await claimed(world)
    for number in range(1, 601):
        await world.tell(job, number)
    await world.heard(job.name, 602)

    await world.complete(job)

    assert await sequences(world, job.name) == list(range(1, 604))


async def test_slow_watchers_hold_up_nobody(world: World) -> None:
    job = await claimed(world)
    async with open_channel(world.address) as channel:
        stub = TuningJobServiceStub(channel)
        idle = [stub.WatchTuningJob(WatchTuningJobRequest(name=job.name)) for _ in range(40)]
        for watch in idle:
            await watch.read()  # then reads no more

        await trained(world, job)

        assert await sequences(world, job.name) == WHOLE
        for watch in idle:
            watch.cancel()


async def test_a_watcher_who_leaves_takes_nobody_along(world: World) -> None:
    created = await world.create()
    leaving = world.watch(created.name)
    staying = asyncio.create_task(world.history(created.name))
    await leaving.read()
    leaving.cancel()
    await asyncio.sleep(0.05)

    await world.cancel(created.name)

    assert len(await asyncio.wait_for(staying, 2)) == 2


@pytest.mark.parametrize(
    ("name", "after", "code"),
    [
        ("projects/default/tuningJobs/nobody", 0, "NOT_FOUND"),
        ("projects/default/tuningJobs/nobody", -1, "INVALID_ARGUMENT"),
        ("nonsense", 0, "INVALID_ARGUMENT"),
    ],
)
async def test_a_bad_watch_is_refused(world: World, name: str, after: int, code: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.history(name, after)

    assert refused(refusal).code == code
