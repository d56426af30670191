"""What no project can do to the queue: fill it with lines, or pass its quota by a back door."""

from collections.abc import Awaitable
from datetime import timedelta
from random import Random
from string import ascii_letters

import grpc.aio
import pytest
from sqlmodel import update

from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from anneal.trainer.v1 import tuning_sweep_pb2 as sweep_pb
from anneal.trainer.v1 import tuning_sweep_service_pb2 as sweep_service_pb
from anneal.trainer.v1.node_lease_service_pb2 import NodeCapabilities
from anneal.trainer.v1.tuning_job_pb2 import PrefixMethod, Requirements, TuningJob
from anneal.trainer.v1.tuning_sweep_service_pb2_grpc import TuningSweepServiceStub
from anneal.transport import open_channel
from benchmarks.queue_jobs import fill, queued_job
from services.trainer.control.adapters.tables import JobRow
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.queue.lines import MAX_LINES
from tests.contract.refusals import Refusal
from tests.contract.trainer_control.test_queue import claim, claimed, create_of, set_quota
from tests.contract.trainer_control.world import World, refused


async def fill_lines(world: World, project: str, count: int) -> None:
    async with world.store.reading() as unit:
        now = await unit.now() - timedelta(minutes=1)
    wanted = [{"node_labels": {"rack": f"r-{number}"}} for number in range(count)]
    jobs = [queued_job(project, number, now, requirements=one) for number, one in enumerate(wanted)]
    await fill(world.store, jobs)


async def pause(world: World, name: str) -> TuningJob:
    return await world.jobs.PauseTuningJob(service_pb.PauseTuningJobRequest(name=name))


async def resume(world: World, name: str) -> TuningJob:
    return await world.jobs.ResumeTuningJob(service_pb.ResumeTuningJobRequest(name=name))


async def created_and_claimed(world: World) -> TuningJob:
    await world.create()
    return await claimed(world)


async def refusal_of(call: Awaitable[object]) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refused(caught)


async def test_a_project_has_so_many_lines_and_no_more(world: World) -> None:
    await fill_lines(world, "another", MAX_LINES)
    await fill_lines(world, "default", MAX_LINES)

    refusal = await refusal_of(world.create())
    again = await world.create(requirements=Requirements(node_labels={"rack": "r-7"}))

    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_LINES_REACHED")
    assert refusal.metadata["max_lines"] == str(MAX_LINES)
    assert "tuning_job.requirements" in refusal.status.message
    assert again.state == TuningJob.STATE_QUEUED


async def test_a_line_that_nobody_stands_in_any_more_makes_room_for_another(world: World) -> None:
    await fill_lines(world, "default", MAX_LINES)
    await claimed(world, labels={"rack": "r-3"})

    assert (await world.create()).state == TuningJob.STATE_QUEUED


async def test_a_paused_job_comes_back_into_no_line_too_many(world: World) -> None:
    paused = await pause(world, (await world.create()).name)
    await fill_lines(world, "default", MAX_LINES)

    assert (await refusal_of(resume(world, paused.name))).reason == "QUEUE_LINES_REACHED"


async def test_a_sweep_opens_no_line_too_many(world: World) -> None:
    await fill_lines(world, "default", MAX_LINES)
    draft = world.draft()
    draft.training.max_steps = 100
    sweep = sweep_pb.TuningSweep(tuning_job=draft)
    request = sweep_service_pb.SweepTuningJobRequest(parent="projects/default", tuning_sweep=sweep)

    async with open_channel(world.address) as channel:
        refusal = await refusal_of(TuningSweepServiceStub(channel).SweepTuningJob(request))

    assert refusal.reason == "QUEUE_LINES_REACHED"


async def test_the_longest_labels_fit_into_the_index_of_the_lines(world: World) -> None:
    random = Random(1)
    words = ["".join(random.choices(ascii_letters, k=63)) for _ in range(32)]
    labels = dict(zip(words[:16], words[16:], strict=True))
    most = Requirements(node_labels=labels, device_count=64, device_memory_bytes=2**63 - 1)

    made = await world.create("j" * 63, requirements=most)

    assert made.state == TuningJob.STATE_QUEUED


async def test_a_paused_job_does_not_pass_the_quota_when_it_is_resumed(world: World) -> None:
    paused = await pause(world, (await world.create()).name)
    await set_quota(world, "default", max_queued_jobs=1)
    waiting = await world.create()

    refusal = await refusal_of(resume(world, paused.name))
    await world.cancel(waiting.name)
    resumed = await resume(world, paused.name)

    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_QUOTA_REACHED")
    assert resumed.state == TuningJob.STATE_QUEUED


async def test_a_raised_weight_does_not_hold_a_project_to_what_it_paid_before(
    world: World,
) -> None:
    await set_quota(world, "default", weight=0.01)
    short = await created_and_claimed(world)
    await set_quota(world, "default", weight=1.0)
    await world.complete(short)
    await create_of(world, "another")
    await claimed(world)
    await create_of(world, "another")
    await world.create("mine")

    assert (await claimed(world)).name.endswith("/mine")


async def test_a_node_gets_no_job_of_a_method_that_failed_on_it(world: World) -> None:
    bad = NodeCapabilities(tested_methods=["full"], failed_methods=["lora"])
    await world.create("lora")
    prefix = TuningJob(
        base_model="baseModels/tiny-base",
        dataset_version=world.draft().dataset_version,
        prefix=PrefixMethod(),
    )
    await world.jobs.CreateTuningJob(
        service_pb.CreateTuningJobRequest(
            parent="projects/default", tuning_job_id="prefix", tuning_job=prefix
        )
    )

    first = await claimed(world, "bad", capabilities=bad)

    assert TuningJobName.parse(first.name).tuning_job == "prefix"
    assert await claim(world, "bad", capabilities=bad) is None
    assert TuningJobName.parse((await claimed(world, "good")).name).tuning_job == "lora"


async def test_a_job_that_an_earlier_version_queued_stands_where_it_stood(world: World) -> None:
    earlier = '["default","NORMAL","BUILTIN",1,0,[]]'
    created = await world.create()
    async with world.store.writing() as unit:
        await unit.session.exec(update(JobRow).values(line=earlier))

    assert (await claimed(world)).name == created.name
