"""client.jobs: above all, that a watch loses nothing and repeats nothing."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import grpc
import pytest

from anneal.client import Client
from anneal.errors import DataLoss, DeadlineExceeded, NotFound, Unavailable
from anneal.jobs import Method
from anneal.trainer.v1.tuning_job_pb2 import (
    PRIORITY_LOW,
    AdapterMethod,
    FullMethod,
    LoraMethod,
    PrefixMethod,
    QloraMethod,
    Requirements,
    TrainingParameters,
    TuningJob,
    TuningJobEvent,
)
from tests.contract.anneal.scripted import World, status

Events = list[TuningJobEvent]
ALL = list(range(1, 11))


def breaks_after(count: int) -> object:
    def behave(events: Events) -> Iterator[TuningJobEvent]:
        yield from events[:count]
        raise ConnectionError("going down")

    return behave


def ends_after(count: int) -> object:
    return lambda events: iter(events[:count])


def says_nothing_for(seconds: float) -> object:
    """And ends then, as a service does that restarts."""

    def behave(events: Events) -> Iterator[TuningJobEvent]:
        time.sleep(seconds)
        yield from events[:0]

    return behave


def repeats_one(events: Events) -> Iterator[TuningJobEvent]:
    yield events[0]
    yield from events


def leaves_one_out(events: Events) -> Iterator[TuningJobEvent]:
    yield from events[:2]
    yield from events[3:]


def sequences(client: Client, **arguments: object) -> list[int]:
    return [event.sequence for event in client.jobs.watch("job-1", **arguments)]


def test_a_watch_yields_the_whole_history(client: Client) -> None:
    assert sequences(client) == ALL


def test_a_watch_begins_where_it_is_told(client: Client) -> None:
    assert sequences(client, after_sequence=7) == [8, 9, 10]
    assert sequences(client, after_sequence=10) == []


def test_a_watch_goes_on_where_the_connection_broke(client: Client, world: World) -> None:
    world.watches = [breaks_after(3), breaks_after(0), breaks_after(4)]
    assert sequences(client) == ALL
    asked = [request.after_sequence for request in world.requests("WatchTuningJob")]
    assert asked[0] == 0
    assert set(asked) <= {0, 3, 7, 10}


def test_a_service_that_shuts_down_quietly_does_not_end_a_watch(
    client: Client, world: World
) -> None:
    world.watches = [ends_after(4), ends_after(0)]
    world.job.state = TuningJob.STATE_RUNNING
    seen: list[int] = []
    for event in client.jobs.watch("job-1"):
        seen.append(event.sequence)
        if event.sequence == 10:
            world.job.state = TuningJob.STATE_SUCCEEDED
    assert seen == ALL


def test_events_that_come_twice_are_shown_once(client: Client, world: World) -> None:
    world.watches = [repeats_one]
    assert sequences(client) == ALL


def test_a_missing_event_is_asked_for_again(client: Client, world: World) -> None:
    world.watches = [leaves_one_out]
    assert sequences(client) == ALL


def test_an_event_that_stays_missing_is_said(client: Client, world: World) -> None:
    world.watches = [leaves_one_out] + [lambda events: iter(events[1:])] * 99
    with pytest.raises(DataLoss, match=r"event 3 of .* is missing"):
        sequences(client, patience_s=0.2)


def test_a_watch_gives_up_when_nothing_comes_for_too_long(client: Client, world: World) -> None:
    world.watches = [breaks_after(2)] + [breaks_after(0)] * 999
    seen: list[int] = []
    with pytest.raises(Unavailable):
        seen.extend(event.sequence for event in client.jobs.watch("job-1", patience_s=0.2))
    assert seen == [1, 2]


def test_a_watch_of_a_paused_job_outlasts_its_patience_and_a_restart_of_the_service(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anneal.job_watching.STEADY_S", 0.3)
    world.watches = [says_nothing_for(0.35), says_nothing_for(0)]
    world.job.state = TuningJob.STATE_PAUSED
    seen: list[int] = []
    for event in client.jobs.watch("job-1", patience_s=0.2):
        seen.append(event.sequence)
        world.job.state = TuningJob.STATE_SUCCEEDED
    assert seen == ALL


def test_a_refused_watch_is_not_tried_again(client: Client, world: World) -> None:
    world.refuse["WatchTuningJob"] = lambda: status(grpc.StatusCode.NOT_FOUND, "NOT", "no job")
    with pytest.raises(NotFound):
        sequences(client)
    assert len(world.requests("WatchTuningJob")) == 1


def test_waiting_returns_the_job_however_it_ended(client: Client, world: World) -> None:
    world.job.state = TuningJob.STATE_FAILED
    seen: Events = []
    assert client.jobs.wait("job-1", on_event=seen.append).state == TuningJob.STATE_FAILED
    assert len(seen) == 10


def test_waiting_has_an_end(client: Client, world: World) -> None:
    world.job.state = TuningJob.STATE_RUNNING
    world.events = world.events[:3]
    with pytest.raises(DeadlineExceeded, match="it goes on"):
        client.jobs.wait("job-1", timeout_s=0.3)


def test_a_job_is_created_from_short_names(client: Client, world: World) -> None:
    client.jobs.create(
        "support",
        "tiny-base",
        method=LoraMethod(rank=4),
        training=TrainingParameters(max_steps=9),
        model="helper",
        seed=7,
        labels={"team": "support"},
        priority=PRIORITY_LOW,
        requirements=Requirements(device_count=2),
        deadline_time=datetime(2026, 12, 1, 8, tzinfo=UTC),
        job_id="my-job",
    )
    (request,) = world.requests("CreateTuningJob")
    assert (request.parent, request.tuning_job_id) == ("projects/default", "my-job")
    assert UUID(request.request_id).version == 4
    job = request.tuning_job
    assert job.dataset_version == "projects/default/datasets/support/versions/latest"
    assert job.base_model == "baseModels/tiny-base"
    assert job.model == "projects/default/models/helper"
    assert (job.lora.rank, job.training.max_steps, job.seed) == (4, 9, 7)
    assert not job.training.HasField("batch_size")
    assert (job.priority, job.requirements.device_count) == (PRIORITY_LOW, 2)
    assert job.deadline_time.ToJsonString() == "2026-12-01T08:00:00Z"


def test_a_method_is_chosen_even_without_its_settings(client: Client, world: World) -> None:
    client.jobs.create("support", "tiny-base")
    assert world.requests("CreateTuningJob")[0].tuning_job.WhichOneof("method") == "lora"


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (FullMethod(), "full"),
        (LoraMethod(rank=4), "lora"),
        (QloraMethod(), "qlora"),
        (PrefixMethod(prefix_length=5), "prefix"),
        (AdapterMethod(), "adapter"),
    ],
)
def test_a_job_is_created_with_the_method_given(
    client: Client, world: World, method: Method, kind: str
) -> None:
    client.jobs.create("support", "tiny-base", method=method)
    job = world.requests("CreateTuningJob")[0].tuning_job
    assert job.WhichOneof("method") == kind
    assert getattr(job, kind) == method
