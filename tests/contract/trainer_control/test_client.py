"""What callers have of the queue: the client and the command against the real control plane."""

import asyncio
import json
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from structlog.testing import capture_logs

from anneal.addresses import Addresses
from anneal.cli.root import run
from anneal.client import Client
from anneal.errors import FailedPrecondition, NotFound, ResourceExhausted
from anneal.trainer.v1.node_lease_service_pb2 import ClaimTuningJobRequest
from anneal.trainer.v1.node_service_pb2 import Node
from anneal.trainer.v1.tuning_job_pb2 import (
    PRIORITY_HIGH,
    Checkpoint,
    Requirements,
    TuningJob,
    TuningJobAttempt,
)
from tests.contract.trainer_control.world import ADAPTER, World

T = TypeVar("T")
Captured = pytest.CaptureFixture[str]

H200 = {"gpu": "h200"}


@pytest.fixture
def client(world: World) -> Generator[Client]:
    with Client(Addresses(*[world.address] * 5), environment={}) as client:
        yield client


@pytest.fixture
def environment(world: World, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """The command finds the control plane, whose log is not among what it prints."""
    monkeypatch.setenv("ANNEAL_TRAINER_ADDRESS", world.address)
    for variable in ("ANNEAL_API_KEY", "ANNEAL_DATA_DIR", "ANNEAL_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    with capture_logs():
        yield


async def calling(call: Callable[..., T], *arguments: object, **named: object) -> T:
    """The client blocks, and the control plane is of this thread."""
    return await asyncio.to_thread(call, *arguments, **named)


async def typed(command: str) -> int:
    return await asyncio.to_thread(run, command.split())


async def claimed(world: World, node: str = "node-a", **offered: object) -> TuningJob:
    request = ClaimTuningJobRequest(node=node, **offered)
    answer = await world.nodes.ClaimTuningJob(request)
    assert answer.HasField("lease")
    return answer.lease.job


async def test_a_job_is_created_with_what_the_queue_is_to_know(
    world: World, client: Client
) -> None:
    end = datetime.now(UTC) + timedelta(hours=2)
    wanted = Requirements(node_labels=H200, device_count=2, device_memory_bytes=10)

    made = await calling(
        client.jobs.create,
        "support",
        "tiny-base",
        priority=PRIORITY_HIGH,
        requirements=wanted,
        deadline_time=end,
    )

    assert (made.priority, made.requirements) == (PRIORITY_HIGH, wanted)
    assert abs(made.deadline_time.ToDatetime(UTC) - end) < timedelta(milliseconds=1)
    found = await calling(lambda: list(client.jobs.list(filter_text="priority = HIGH")))
    assert [job.name for job in found] == [made.name]
    assert await world.claim() is None


async def test_a_job_is_paused_resumed_and_tells_its_attempts(world: World, client: Client) -> None:
    await world.create("job-1")
    job = await claimed(world)

    pausing = await calling(client.jobs.pause, "job-1")
    with pytest.raises(FailedPrecondition):
        await calling(client.jobs.resume, "job-1")
    await world.fail(job, "PAUSED")
    paused = await calling(lambda: list(client.jobs.list(filter_text="state = PAUSED")))
    resumed = await calling(client.jobs.resume, "job-1")
    await world.complete(await claimed(world, "node-b"))
    attempts = await calling(lambda: list(client.jobs.attempts("job-1")))

    assert pausing.state == TuningJob.STATE_PAUSING
    assert [one.name for one in paused] == [job.name]
    assert resumed.state == TuningJob.STATE_QUEUED
    assert [(one.node, one.outcome) for one in attempts] == [
        ("node-a", TuningJobAttempt.OUTCOME_PAUSED),
        ("node-b", TuningJobAttempt.OUTCOME_COMPLETED),
    ]


async def test_a_failed_job_is_retried_by_a_new_one(world: World, client: Client) -> None:
    await world.create("job-1")
    job = await claimed(world)
    await world.heartbeat(job, step=10, checkpoint=Checkpoint(step=10, manifest_digest=ADAPTER))
    await world.fail(job, "INVALID_JOB", "the data can not be learnt from")

    again = await calling(client.jobs.retry, "job-1", job_id="again")

    assert (again.name.rpartition("/")[2], again.retry_of) == ("again", job.name)
    assert (await calling(client.jobs.get, "job-1")).retried_as == again.name


async def test_a_quota_is_set_in_part_and_refuses_what_is_too_much(
    world: World, client: Client
) -> None:
    await calling(client.quotas.set, weight=2.0, max_running_jobs=3)
    await calling(client.quotas.set, max_queued_jobs=1)
    await world.create()

    quota = await calling(client.quotas.get)

    assert (quota.weight, quota.max_running_jobs, quota.max_queued_jobs) == (2, 3, 1)
    assert quota.queued_jobs == 1
    with pytest.raises(ResourceExhausted) as refusal:
        await calling(client.jobs.create, "support", "tiny-base")
    assert refusal.value.reason == "QUEUE_QUOTA_REACHED"


async def test_a_node_is_closed_and_opened(world: World, client: Client) -> None:
    await world.create()
    running = await claimed(world, labels=H200)

    cordoned = await calling(client.nodes.cordon, "node-a")
    listed = await calling(lambda: list(client.nodes.list()))
    opened = await calling(client.nodes.uncordon, "node-a")

    assert list(cordoned.tuning_jobs) == [running.name]
    assert listed == [cordoned]
    assert (cordoned.state, opened.state) == (Node.STATE_CORDONED, Node.STATE_READY)
    assert dict(opened.labels) == H200
    with pytest.raises(NotFound):
        await calling(client.nodes.drain, "nobody")


@pytest.mark.usefixtures("environment")
async def test_a_watch_goes_on_through_a_pause_and_a_drained_node_and_says_so(
    world: World, client: Client, capsys: Captured
) -> None:
    await world.create("job-1")
    watch = asyncio.create_task(typed("job watch job-1"))
    first = await claimed(world)

    await calling(client.jobs.pause, "job-1")
    await world.fail(first, "PAUSED")
    await calling(client.jobs.resume, "job-1")
    second = await claimed(world)
    await calling(client.nodes.drain, "node-a")
    await world.fail(second, "PREEMPTED")
    await world.complete(await claimed(world, "node-b"))

    assert await watch == 0
    assert capsys.readouterr().out.splitlines()[:-2] == [
        "QUEUED",
        "RUNNING: node-a took it",
        "PAUSING: stops after its step, with a checkpoint",
        "PAUSED: the engine was paused; waits until it is resumed",
        "QUEUED",
        "RUNNING (attempt 2): node-a took it",
        "QUEUED (attempt 2): it made room on its node",
        "RUNNING (attempt 3): node-b took it",
        "SUCCEEDED (attempt 3)",
    ]


@pytest.mark.usefixtures("environment")
async def test_the_command_creates_a_job_that_waits_for_its_node(
    world: World, capsys: Captured
) -> None:
    options = "--priority urgent --require gpu=h200 --devices 1 --deadline 2h --name job-1"
    assert await typed(f"job create --dataset support --base tiny-base {options} -o json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["requirements"]["node_labels"] == H200

    assert await world.claim() is None
    assert (await claimed(world, labels=H200)).name == made["name"]
    assert await typed("nodes list -o json") == 0
    (node,) = json.loads(capsys.readouterr().out)
    assert (node["labels"], node["tuning_jobs"]) == (H200, [made["name"]])
    assert await typed("quota show -o json") == 0
    assert json.loads(capsys.readouterr().out)["running_jobs"] == 1
