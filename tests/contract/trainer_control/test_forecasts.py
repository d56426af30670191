"""Where a waiting job stands, and when it starts."""

import pytest

from anneal.trainer.v1 import node_lease_service_pb2 as lease_pb
from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from tests.contract.trainer_control.world import World

URGENT = job_pb.PRIORITY_URGENT


async def train_one(world: World) -> None:
    """So that something is known of how long jobs take."""
    await world.create()
    lease = await world.claim()
    assert lease is not None
    await world.complete(lease.job)


async def test_the_places_of_waiting_jobs_go_by_the_queues_rules(world: World) -> None:
    await train_one(world)
    await world.create("running")
    assert await world.claim() is not None
    names = [
        (await world.create("first")).name,
        (await world.create("second")).name,
        (await world.create("urgent", priority=URGENT)).name,
    ]

    places = [(await world.get(name)).queue_place for name in names]

    assert [place.position for place in places] == [2, 3, 1]
    for place in places:
        begin, end = place.earliest_start_time, place.latest_start_time
        assert 0 < begin.ToMicroseconds() <= end.ToMicroseconds()


async def test_without_experience_only_the_position_is_told(world: World) -> None:
    await world.create("first")
    second = await world.create("second")

    place = (await world.get(second.name)).queue_place

    assert place.position == 2
    assert not place.HasField("earliest_start_time")


async def test_of_a_job_that_no_node_can_train_no_start_is_told(world: World) -> None:
    await train_one(world)
    wanted = job_pb.Requirements(node_labels={"gpu": "h200"})
    job = await world.create(requirements=wanted)

    place = (await world.get(job.name)).queue_place

    assert place.position == 1
    assert not place.HasField("earliest_start_time")
    assert not place.HasField("latest_start_time")


@pytest.mark.parametrize("ends", [False, True])
async def test_a_job_that_does_not_wait_has_no_place(world: World, ends: bool) -> None:
    job = await world.create()
    if ends:
        await world.cancel(job.name)
    else:
        assert await world.nodes.ClaimTuningJob(lease_pb.ClaimTuningJobRequest(node="node-a"))

    assert not (await world.get(job.name)).HasField("queue_place")
