"""What the service tells a node besides the job: what it was granted unheard, and what went wrong
before."""

import asyncio

from anneal.trainer.v1 import node_lease_service_pb2 as lease_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from anneal.trainer.v1.tuning_job_pb2 import TuningJob
from tests.contract.trainer_control.test_leases import lease_of
from tests.contract.trainer_control.world import World


async def granted(world: World, request_id: str) -> lease_pb.Lease | None:
    """The question of a node that stops."""
    request = lease_pb.ClaimTuningJobRequest(node="node-a", request_id=request_id, stopping=True)
    answer = await world.nodes.ClaimTuningJob(request)
    return answer.lease if answer.HasField("lease") else None


async def test_a_node_that_stops_hands_back_what_it_never_heard_of(
    world: World, request_id: str
) -> None:
    created = await world.create(max_attempts=1)
    await world.claim(request_id=request_id)  # and the answer is lost

    lease = await granted(world, request_id)
    assert lease is not None
    handed_back = await world.fail(lease.job, "NODE_STOPPING")

    assert (lease.job.name, lease.job.attempt) == (created.name, 1)
    assert handed_back.state == TuningJob.STATE_QUEUED
    assert await granted(world, request_id) is None


async def test_a_node_that_stops_is_given_nothing_new(world: World, request_id: str) -> None:
    created = await world.create()

    assert await granted(world, request_id) is None
    assert (await world.get(created.name)).attempt == 0


async def test_a_claim_that_is_cancelled_while_it_is_granted_costs_no_attempt(
    world: World, request_id: str
) -> None:
    """However far it had come."""
    for pause_s in (0.0, 0.002, 0.005, 0.01, 0.02):
        created = await world.create(max_attempts=1)
        claim = asyncio.create_task(world.claim(wait_s=5, request_id=request_id))
        await asyncio.sleep(pause_s)
        claim.cancel()
        await asyncio.wait({claim})

        lease = await granted(world, request_id)
        if lease is not None:
            await world.fail(lease.job, "NODE_STOPPING")

        job = await world.get(created.name)
        assert (job.state, job.node) == (TuningJob.STATE_QUEUED, job.node if lease else "")
        await world.cancel(created.name)


async def test_a_lease_tells_in_which_attempts_memory_ran_out(world: World) -> None:
    await world.create(max_attempts=3)
    causes = ["OUT_OF_MEMORY", "ENGINE_KILLED", "NODE_STOPPING", "OUT_OF_MEMORY"]
    told: list[list[int]] = []
    for cause in causes:
        lease = await lease_of(world)
        told.append(list(lease.out_of_memory_attempts))
        await world.fail(lease.job, cause)

    await world.jobs.RetryTuningJob(service_pb.RetryTuningJobRequest(name=lease.job.name))
    retried = await lease_of(world)

    assert told == [[], [1], [1], [1]]
    assert (retried.job.attempt, list(retried.out_of_memory_attempts)) == (5, [1, 4])
