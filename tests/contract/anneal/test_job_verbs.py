"""Pause, resume, retry and attempts: `client.jobs` and `anneal job`."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from anneal.cli.root import run
from anneal.client import Client
from anneal.errors import FailedPrecondition
from anneal.trainer.v1.tuning_job_pb2 import (
    PRIORITY_HIGH,
    Requirements,
    StateChange,
    TuningJob,
    TuningJobAttempt,
    TuningJobEvent,
)
from tests.contract.anneal.scripted import World, end_event, status

Captured = pytest.CaptureFixture[str]

NAME = "projects/default/tuningJobs/job-1"
COMMAND = pytest.mark.usefixtures("environment")


def change(sequence: int, to: TuningJob.State.ValueType, cause: str = "") -> TuningJobEvent:
    return TuningJobEvent(sequence=sequence, state_change=StateChange(to=to, cause=cause))


def attempt(number: int, **fields: object) -> TuningJobAttempt:
    return TuningJobAttempt(
        name=f"{NAME}/attempts/{number}", attempt=number, node=f"nodes/node-{number}", **fields
    )


def test_pausing_and_resuming_name_the_job_and_can_be_repeated(
    client: Client, world: World
) -> None:
    assert client.jobs.pause("job-1", etag="e").state == TuningJob.STATE_PAUSING
    assert client.jobs.resume("job-1", etag="f").state == TuningJob.STATE_QUEUED
    (paused,), (resumed,) = (world.requests(f"{verb}TuningJob") for verb in ("Pause", "Resume"))
    assert (paused.name, paused.etag, resumed.name, resumed.etag) == (NAME, "e", NAME, "f")
    assert {UUID(paused.request_id).version, UUID(resumed.request_id).version} == {4}


def test_a_retry_is_a_new_job_of_its_own_name_and_deadline(client: Client, world: World) -> None:
    end = datetime(2026, 12, 1, 8, tzinfo=UTC)
    again = client.jobs.retry("job-1", job_id="again", deadline_time=end)
    assert (again.name, again.retry_of) == ("projects/default/tuningJobs/again", NAME)
    client.jobs.retry("job-1")
    first, second = world.requests("RetryTuningJob")
    assert first.deadline_time.ToDatetime(UTC) == end
    assert not second.HasField("deadline_time")
    assert first.request_id != second.request_id


def test_a_time_without_a_zone_is_of_this_machine(client: Client, world: World) -> None:
    end = datetime(2026, 12, 1, 8)
    client.jobs.retry("job-1", deadline_time=end)
    (request,) = world.requests("RetryTuningJob")
    assert request.deadline_time.ToDatetime(UTC) == end.astimezone(UTC)


def test_all_attempts_are_listed(client: Client, world: World) -> None:
    world.attempts = [attempt(number) for number in range(1, 6)]
    assert list(client.jobs.attempts("job-1")) == world.attempts
    assert {one.parent for one in world.requests("ListTuningJobAttempts")} == {NAME}


def test_a_wrong_state_is_said(client: Client, world: World) -> None:
    refusal = status(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", "it is PAUSING")
    world.refuse["ResumeTuningJob"] = lambda: refusal
    with pytest.raises(FailedPrecondition, match="it is PAUSING"):
        client.jobs.resume("job-1")


@COMMAND
@pytest.mark.parametrize(
    ("verb", "said"),
    [("pause", "PAUSING"), ("resume", "QUEUED"), ("cancel", "CANCELLING")],
)
def test_a_verb_says_where_the_job_stands(
    world: World, capsys: Captured, verb: str, said: str
) -> None:
    assert run(["job", verb, "job-1", "--etag", "e"]) == 0
    assert capsys.readouterr().out == f"job-1 is {said}\n"
    (request,) = world.requests(f"{verb.title()}TuningJob")
    assert (request.name, request.etag) == (NAME, "e")
    assert run(["job", verb, "job-1", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == f"STATE_{said}"


@COMMAND
def test_a_retry_says_what_it_repeats(world: World, capsys: Captured) -> None:
    assert run(["job", "retry", "job-1", "--name", "again", "--deadline", "2h"]) == 0
    assert capsys.readouterr().out == "again is QUEUED, a retry of job-1\n"
    (request,) = world.requests("RetryTuningJob")
    left = request.deadline_time.ToDatetime(UTC) - datetime.now(UTC)
    assert 7000 < left.total_seconds() <= 7200


@COMMAND
def test_a_retry_is_watched_to_its_end(world: World, capsys: Captured) -> None:
    world.job.name = "projects/default/tuningJobs/again"
    assert run(["job", "retry", "job-1", "--name", "again", "--watch", "-o", "json"]) == 0
    made, *events = map(json.loads, capsys.readouterr().out.splitlines())
    assert made["retry_of"] == NAME
    assert [event["sequence"] for event in events] == [str(n) for n in range(1, 11)]


@COMMAND
def test_attempts_are_a_line_each(world: World, capsys: Captured) -> None:
    world.attempts = [
        attempt(
            1,
            outcome=TuningJobAttempt.OUTCOME_ENGINE_KILLED,
            message="signal 9\nlast lines:\x1b[2J",
            steps=1200,
            last_step=1200,
            start_time=Timestamp(seconds=1),
            end_time=Timestamp(seconds=76),
            duration=Duration(seconds=75),
        ),
        attempt(2, steps=7, last_step=1157, redone_steps=7),
    ]
    assert run(["job", "attempts", "job-1"]) == 0
    first, second = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert first[:7] == ["1", "node-1", "ENGINE_KILLED", "1,200", "1,200", "0", "1:15"]
    assert first[8] == "signal 9 last lines: [2J"
    assert second[:6] == ["2", "node-2", "RUNNING", "7", "1,157", "7"]
    assert run(["job", "attempts", "job-1", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["outcome"] == "OUTCOME_ENGINE_KILLED"


@COMMAND
def test_a_paused_job_is_watched_on_and_it_is_said_that_it_waits(
    world: World, capsys: Captured
) -> None:
    world.events = [
        change(1, TuningJob.STATE_QUEUED),
        change(2, TuningJob.STATE_RUNNING),
        change(3, TuningJob.STATE_PAUSING),
        change(4, TuningJob.STATE_PAUSED, "the engine was paused"),
        change(5, TuningJob.STATE_QUEUED),
        change(6, TuningJob.STATE_RUNNING),
        change(7, TuningJob.STATE_QUEUED, "it made room on its node"),
        end_event(8),
    ]
    assert run(["job", "watch", "job-1"]) == 0
    assert capsys.readouterr().out.splitlines()[:8] == [
        "QUEUED",
        "RUNNING",
        "PAUSING: stops after its step, with a checkpoint",
        "PAUSED: the engine was paused; waits until it is resumed",
        "QUEUED",
        "RUNNING",
        "QUEUED: it made room on its node",
        "SUCCEEDED",
    ]


@COMMAND
@pytest.mark.parametrize(
    ("state", "told"),
    [
        (TuningJob.STATE_RUNNING, "the job goes on; see it again with: anneal job watch job-1"),
        (TuningJob.STATE_PAUSING, "the job pauses; have it go on with: anneal job resume job-1"),
        (TuningJob.STATE_PAUSED, "the job is paused; have it go on with: anneal job resume job-1"),
    ],
)
def test_who_leaves_a_job_is_told_how_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    state: TuningJob.State.ValueType,
    told: str,
) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[TuningJobEvent]:
        yield change(1, state)
        raise KeyboardInterrupt

    monkeypatch.setattr("anneal.jobs.Jobs.watch", interrupted)
    assert run(["job", "watch", "job-1"]) == 130
    assert capsys.readouterr().out.splitlines()[-1] == told


@COMMAND
def test_a_job_is_listed_and_shown_with_what_the_queue_was_told(
    world: World, capsys: Captured
) -> None:
    world.job.MergeFrom(
        TuningJob(
            state=TuningJob.STATE_PAUSED,
            priority=PRIORITY_HIGH,
            requirements=Requirements(
                node_labels={"region": "eu", "gpu": "h200"},
                device_count=2,
                device_memory_bytes=80_000_000_000,
            ),
            deadline_time=Timestamp(seconds=1_800_000_000),
            retry_of="projects/default/tuningJobs/job-0",
            retried_as="projects/default/tuningJobs/job-2",
            attempt=5,
            max_attempts=3,
        )
    )
    assert run(["job", "list"]) == 0
    cells = capsys.readouterr().out.rstrip("\n").split("\t")
    assert (cells[1], cells[-1]) == ("PAUSED", "high")
    assert run(["job", "show", "job-1"]) == 0
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    fields = {name: value.strip() for name, value in shown.items()}
    assert fields["priority"] == "high"
    assert fields["requires"] == "gpu=h200, region=eu, 2 devices, 80.0 GB of memory a device"
    assert fields["deadline"].startswith("2027-01-1")
    assert fields["attempt"] == "5, 3 may fail"  # those that were paused did not
    assert (fields["retry of"], fields["retried as"]) == ("job-0", "job-2")
