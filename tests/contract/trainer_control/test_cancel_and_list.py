"""CancelTuningJob and ListTuningJobs."""

import grpc.aio
import pytest

from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from anneal.trainer.v1.tuning_job_pb2 import TuningJob
from tests.contract.trainer_control.world import PARENT, World, refused


async def listed(world: World, **fields: object) -> service_pb.ListTuningJobsResponse:
    return await world.jobs.ListTuningJobs(
        service_pb.ListTuningJobsRequest(parent=PARENT, **fields)
    )


async def ids(world: World, filter: str) -> list[str]:
    answer = await listed(world, filter=filter)
    return [job.name.rpartition("/")[2] for job in answer.tuning_jobs]


async def test_a_queued_job_is_cancelled_at_once_and_stays_so(world: World) -> None:
    created = await world.create()

    cancelled = await world.cancel(created.name)

    assert cancelled.state == TuningJob.STATE_CANCELLED
    assert cancelled.HasField("end_time")
    assert await world.cancel(created.name) == cancelled
    assert await world.claim() is None


async def test_a_running_job_is_cancelling_until_its_node_has_stopped(world: World) -> None:
    await world.create()
    lease = await world.claim()
    assert lease is not None

    cancelling = await world.cancel(lease.job.name)
    assert cancelling.state == TuningJob.STATE_CANCELLING
    assert await world.cancel(lease.job.name) == cancelling

    ended = await world.fail(lease.job, "CANCELLED")
    assert ended.state == TuningJob.STATE_CANCELLED
    assert not ended.HasField("error")


async def test_an_ended_job_can_not_be_cancelled(world: World) -> None:
    await world.create()
    lease = await world.claim()
    assert lease is not None
    await world.complete(lease.job)

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.cancel(lease.job.name)

    assert refused(refusal).code == "FAILED_PRECONDITION"
    assert refused(refusal).reason == "WRONG_STATE"
    assert refused(refusal).metadata["state"] == "SUCCEEDED"


async def test_a_cancel_for_a_state_that_has_passed_is_refused(world: World) -> None:
    created = await world.create()
    await world.claim()

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.cancel(created.name, etag=created.etag)

    assert refused(refusal).code == "ABORTED"
    assert refused(refusal).reason == "STALE_ETAG"


async def test_pages_hold_every_job_once_newest_first(world: World) -> None:
    made = [(await world.create()).name for _ in range(7)]

    seen: list[str] = []
    token = ""
    while True:
        page = await listed(world, page_size=3, page_token=token)
        seen += [job.name for job in page.tuning_jobs]
        token = page.next_page_token
        if not token:
            break

    assert seen == made[::-1]


async def test_other_projects_are_not_listed(world: World) -> None:
    await world.create()

    answer = await world.jobs.ListTuningJobs(
        service_pb.ListTuningJobsRequest(parent="projects/other")
    )

    assert not answer.tuning_jobs


async def test_jobs_are_filtered_by_what_they_are(world: World) -> None:
    await world.create("waiting", labels={"team": "support"})
    await world.create("stopped", labels={"team": "sales"}, model=f"{PARENT}/models/other")
    await world.cancel(f"{PARENT}/tuningJobs/stopped")

    assert await ids(world, "state = QUEUED") == ["waiting"]
    assert await ids(world, 'labels.team = "sales"') == ["stopped"]
    assert await ids(world, f'model = "{PARENT}/models/support"') == ["waiting"]
    assert await ids(world, 'base_model = "baseModels/tiny-base" AND node = ""') == [
        "stopped",
        "waiting",
    ]
    assert await ids(world, 'create_time < "2020-01-01T00:00:00Z"') == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"filter": "colour = red"}, "FILTER_INVALID"),
        ({"filter": "state = SLEEPING"}, "FILTER_INVALID"),
        ({"page_size": -1}, "PAGE_SIZE_NEGATIVE"),
        ({"page_token": "edited"}, "PAGE_TOKEN_INVALID"),
    ],
)
async def test_a_bad_list_is_refused(world: World, fields: dict[str, object], reason: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await listed(world, **fields)

    assert refused(refusal).reason == reason


async def test_a_token_is_good_for_its_own_list_only(world: World) -> None:
    for _ in range(2):
        await world.create()
    token = (await listed(world, page_size=1)).next_page_token

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await listed(world, page_token=token, filter="state = QUEUED")

    assert refused(refusal).reason == "PAGE_TOKEN_INVALID"
