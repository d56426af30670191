"""Whose turn it is: priorities, shares, quotas, requirements, preemption; and nodes' cordons."""

import asyncio
from typing import Any

import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from sqlmodel import update

from anneal.trainer.v1 import estimate_pb2, node_lease_service_pb2, tuning_job_pb2
from anneal.trainer.v1 import node_service_pb2 as node_pb
from anneal.trainer.v1 import queue_service_pb2 as queue_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from anneal.trainer.v1.node_service_pb2_grpc import NodeServiceStub
from anneal.trainer.v1.queue_service_pb2_grpc import QueueServiceStub
from anneal.trainer.v1.tuning_job_pb2 import Requirements, TuningJob
from anneal.transport import open_channel
from services.trainer.control.adapters.tables import JobRow
from services.trainer.control.domain.names import DatasetVersionName
from services.trainer.control.domain.ports import DatasetVersion
from services.trainer.control.domain.queue.latecomers import Latecomers
from tests.contract.trainer_control.world import DIGEST, World, refused

URGENT = tuning_job_pb2.PRIORITY_URGENT
HIGH = tuning_job_pb2.PRIORITY_HIGH
LOW = tuning_job_pb2.PRIORITY_LOW


async def create_of(world: World, project: str, **fields: Any) -> TuningJob:
    name = DatasetVersionName(project, "support", "v-1234567890abcdef")
    world.datasets.versions[str(name)] = DatasetVersion(name, DIGEST, 300)
    draft = world.draft(dataset_version=str(name), **fields)
    return await world.jobs.CreateTuningJob(
        service_pb.CreateTuningJobRequest(parent=f"projects/{project}", tuning_job=draft)
    )


async def claim(world: World, node: str = "node-a", **offered: Any) -> TuningJob | None:
    request = node_lease_service_pb2.ClaimTuningJobRequest(node=node, **offered)
    answer = await world.nodes.ClaimTuningJob(request)
    return answer.lease.job if answer.HasField("lease") else None


async def claimed(world: World, node: str = "node-a", **offered: Any) -> TuningJob:
    job = await claim(world, node, **offered)
    assert job is not None
    return job


async def set_quota(world: World, project: str, *paths: str, **fields: Any) -> queue_pb.Quota:
    async with open_channel(world.address) as channel:
        quota = queue_pb.Quota(name=f"projects/{project}/quota", **fields)
        mask = FieldMask(paths=paths)
        request = queue_pb.UpdateQuotaRequest(quota=quota, update_mask=mask)
        return await QueueServiceStub(channel).UpdateQuota(request)


async def nodes(world: World) -> dict[str, node_pb.Node]:
    async with open_channel(world.address) as channel:
        answer = await NodeServiceStub(channel).ListNodes(node_pb.ListNodesRequest())
        return {node.name: node for node in answer.nodes}


async def test_a_higher_priority_comes_first_and_then_the_older_job(world: World) -> None:
    made = [
        await world.create("low", priority=LOW),
        await world.create("old"),
        await world.create("new"),
        await world.create("high", priority=HIGH),
        await world.create("urgent", priority=URGENT),
    ]

    taken = [(await claimed(world)).name.rpartition("/")[2] for _ in made]

    assert taken == ["urgent", "high", "old", "new", "low"]


async def test_projects_take_turns_however_many_jobs_one_of_them_has(world: World) -> None:
    for _ in range(6):
        await create_of(world, "greedy")
    for _ in range(3):
        await create_of(world, "modest")

    turns = [(await claimed(world)).name.split("/")[1] for _ in range(6)]

    assert turns.count("modest") == 3


async def test_a_project_of_twice_the_weight_gets_twice_as_much(world: World) -> None:
    await set_quota(world, "heavy", weight=2.0)
    for _ in range(8):
        await create_of(world, "heavy")
        await create_of(world, "light")

    turns = [(await claimed(world)).name.split("/")[1] for _ in range(9)]

    assert turns.count("heavy") == 6


async def test_a_project_that_was_away_has_no_claim_to_the_time_it_missed(world: World) -> None:
    for _ in range(8):
        await create_of(world, "busy")
    for _ in range(4):
        await claimed(world)
    for _ in range(4):
        await create_of(world, "late")

    turns = [(await claimed(world)).name.split("/")[1] for _ in range(4)]

    assert turns.count("late") == 2


async def test_a_newcomer_has_no_claim_to_what_others_had_while_nothing_waited(
    world: World,
) -> None:
    for _ in range(8):
        await create_of(world, "busy")
        await claimed(world)
    for _ in range(4):
        await create_of(world, "busy")
        await create_of(world, "new")

    turns = [(await claimed(world)).name.split("/")[1] for _ in range(4)]

    assert turns.count("new") == 2


async def test_claims_at_the_same_moment_serve_the_projects_in_turn(world: World) -> None:
    for _ in range(4):
        await create_of(world, "one")
        await create_of(world, "two")

    jobs = await asyncio.gather(*(claimed(world, f"node-{place}") for place in "abcd"))

    assert [job.name.split("/")[1] for job in jobs].count("one") == 2


async def test_a_job_in_no_line_stops_no_claim_and_is_lined_up(world: World) -> None:
    created = await world.create("of-an-older-replica")
    async with world.store.writing() as unit:
        await unit.session.exec(update(JobRow).values(line=""))

    assert await claim(world) is None
    await Latecomers(world.store).line_up()
    assert (await claimed(world)).name == created.name


async def test_what_was_charged_in_advance_is_given_back(world: World) -> None:
    await create_of(world, "short")
    job = await claimed(world)
    during = await set_quota(world, "short", "weight", weight=1.0)
    await world.complete(job)
    after = await set_quota(world, "short", "weight", weight=1.0)

    assert during.device_hours == pytest.approx(60 / 3600)
    assert after.device_hours < 10 / 3600


async def test_only_as_many_jobs_run_as_the_quota_lets(world: World) -> None:
    await set_quota(world, "capped", max_running_jobs=1)
    for _ in range(2):
        await create_of(world, "capped")
    first = await claimed(world)

    assert await claim(world) is None
    await world.complete(first)
    assert await claim(world) is not None


async def test_a_day_of_device_hours_is_all_that_a_project_gets(world: World) -> None:
    await set_quota(world, "capped", max_device_hours_a_day=0.01)
    for _ in range(2):
        await create_of(world, "capped")
    await claimed(world)  # 60 s are charged, of 36

    assert await claim(world) is None


async def test_a_full_queue_refuses_and_says_why(world: World) -> None:
    await set_quota(world, "capped", max_queued_jobs=2)
    for _ in range(2):
        await create_of(world, "capped")

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await create_of(world, "capped")

    assert refused(refusal).code == "RESOURCE_EXHAUSTED"
    assert refused(refusal).reason == "QUEUE_QUOTA_REACHED"
    assert refused(refusal).metadata["max_queued_jobs"] == "2"


async def test_a_quota_is_set_by_its_mask_alone(world: World) -> None:
    await set_quota(world, "default", max_running_jobs=3, max_queued_jobs=5)

    changed = await set_quota(world, "default", "max_queued_jobs", max_queued_jobs=7)

    assert (changed.max_running_jobs, changed.max_queued_jobs, changed.weight) == (3, 7, 1)


@pytest.mark.parametrize(
    ("fields", "path", "field"),
    [
        ({"weight": -1.0}, (), "quota.weight"),
        ({"weight": 5e-324}, (), "quota.weight"),
        ({"max_running_jobs": -1}, (), "quota.max_running_jobs"),
        ({"max_device_hours_a_day": float("nan")}, (), "quota.max_device_hours_a_day"),
        ({}, ("used",), "update_mask"),
    ],
)
async def test_a_quota_that_makes_no_sense_is_refused(
    world: World, fields: dict[str, Any], path: tuple[str, ...], field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await set_quota(world, "default", *path, **fields)

    assert list(refused(refusal).reason_of) == [field]


async def test_a_job_waits_for_a_node_that_has_what_it_requires(world: World) -> None:
    wanted = Requirements(node_labels={"gpu": "h200"}, device_count=2, device_memory_bytes=10)
    await world.create(requirements=wanted)
    device = estimate_pb2.Device(kind=estimate_pb2.Device.KIND_CUDA, memory_bytes=10)
    right: dict[str, Any] = {"labels": {"gpu": "h200", "x": "y"}, "device": device}

    assert await claim(world) is None
    assert await claim(world, free_devices=2, device=device) is None
    assert await claim(world, free_devices=1, **right) is None
    small = estimate_pb2.Device(kind=estimate_pb2.Device.KIND_CUDA, memory_bytes=9)
    assert await claim(world, free_devices=2, **right | {"device": small}) is None
    job = await claim(world, free_devices=2, **right)
    assert job is not None
    assert job.requirements == wanted


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (Requirements(node_labels={"gpu": "two words"}), "node_labels"),
        (Requirements(device_count=65), "device_count"),
        (Requirements(device_memory_bytes=-1), "device_memory_bytes"),
    ],
)
async def test_requirements_that_no_node_can_have_are_refused(
    world: World, wanted: Requirements, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create(requirements=wanted)

    (violated,) = refused(refusal).reason_of
    assert violated.startswith(f"tuning_job.requirements.{field}")


async def test_an_urgent_job_takes_the_place_of_a_running_one_which_loses_no_attempt(
    world: World,
) -> None:
    await world.create("normal", max_attempts=1)
    running = await claimed(world)
    await world.create("urgent", priority=URGENT)

    async with asyncio.timeout(8):
        while (beat := await world.heartbeat(running, step=3)).directive == 0:
            await asyncio.sleep(0.1)
    requeued = await world.fail(running, "PREEMPTED")
    urgent, again = await claimed(world), await claimed(world, "node-b")

    assert beat.directive == node_lease_service_pb2.DIRECTIVE_YIELD
    assert requeued.state == TuningJob.STATE_QUEUED
    assert (urgent.name.rpartition("/")[2], again.attempt) == ("urgent", 2)
    assert (await world.heartbeat(again, step=4)).directive == 0


async def test_a_drained_node_gives_its_jobs_back_and_gets_no_more(world: World) -> None:
    await world.create()
    running = await claimed(world, "node-a")
    async with open_channel(world.address) as channel:
        service = NodeServiceStub(channel)
        drained = await service.DrainNode(node_pb.DrainNodeRequest(name="nodes/node-a"))
        beat = await world.heartbeat(running, step=1)
        await world.fail(running, "PREEMPTED")

        assert drained.state == node_pb.Node.STATE_DRAINING
        assert list(drained.tuning_jobs) == [running.name]
        assert beat.directive == node_lease_service_pb2.DIRECTIVE_YIELD
        assert await claim(world, "node-a") is None

        await service.UncordonNode(node_pb.UncordonNodeRequest(name="nodes/node-a"))
        assert (await claimed(world, "node-a")).name == running.name


async def test_a_cordoned_node_keeps_its_job_and_gets_no_other(world: World) -> None:
    await world.create()
    running = await claimed(world, "node-a")
    await world.create()
    async with open_channel(world.address) as channel:
        request = node_pb.CordonNodeRequest(name="nodes/node-a")
        await NodeServiceStub(channel).CordonNode(request)

    assert (await world.heartbeat(running, step=1)).directive == 0
    assert await claim(world, "node-a") is None
    assert (await nodes(world))["nodes/node-a"].state == node_pb.Node.STATE_CORDONED


async def test_nodes_are_listed_with_what_they_said(world: World) -> None:
    told = node_lease_service_pb2.NodeCapabilities(device_count=8, torch_version="2.13.0")
    await claim(world, "node-b", labels={"gpu": "h200"}, free_devices=8, capabilities=told)
    await claim(world, "node-a")

    listed = await nodes(world)

    assert list(listed) == ["nodes/node-a", "nodes/node-b"]
    node = listed["nodes/node-b"]
    assert (node.state, dict(node.labels)) == (node_pb.Node.STATE_READY, {"gpu": "h200"})
    assert node.capabilities == told


async def test_a_node_that_never_asked_for_work_is_not_found(world: World) -> None:
    async with open_channel(world.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await NodeServiceStub(channel).GetNode(node_pb.GetNodeRequest(name="nodes/nobody"))

    assert refused(refusal).reason == "NODE_NOT_FOUND"
