"""What nodes publish becomes history and progress, exactly once and before the job's end."""

import asyncio
import math
import time
from dataclasses import replace
from typing import Any

import pytest

from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1.tuning_job_pb2 import TuningJob
from services.common.bus_nats import NatsBus
from services.common.testing.postgres import Postgres
from services.trainer.control import from_proto
from services.trainer.control.adapters import telemetry
from services.trainer.control.adapters.telemetry import DURABLE, SUBJECTS
from services.trainer.control.domain.progress import Telemetry
from services.trainer.control.domain.telemetry import hear
from tests.contract.trainer_control.conftest import Serve
from tests.contract.trainer_control.world import FAST, World, step_event


async def claimed(world: World, **fields: object) -> TuningJob:
    await world.create(**fields)
    lease = await world.claim()
    assert lease is not None
    return lease.job


def published(job: TuningJob, number: int, **event: Any) -> Telemetry:
    told = event or {"step": step_event(number)}
    event = job_pb.TuningJobEvent(attempt=job.attempt, attempt_sequence=number, **told)
    subject = f"anneal.jobs.default.{job.name.rpartition('/')[2]}.events"
    return from_proto.telemetry(subject, event.SerializeToString())


def kinds(events: list[job_pb.TuningJobEvent]) -> list[str]:
    """`QUEUED`, `RUNNING`, … for changes of state, `1.3` for the third event of attempt 1."""
    return [
        TuningJob.State.Name(event.state_change.to).removeprefix("STATE_")
        if event.HasField("state_change")
        else f"{event.attempt}.{event.attempt_sequence}"
        for event in events
    ]


async def test_the_history_of_a_whole_job_is_in_order_and_without_a_gap(world: World) -> None:
    job = await claimed(world)
    for number in range(1, 6):
        await world.tell(job, number)
    await world.complete(job, event_count=5)

    events = await world.history(job.name)

    assert kinds(events) == [
        "QUEUED", "RUNNING", "1.1", "1.2", "1.3", "1.4", "1.5", "SUCCEEDED",
    ]  # fmt: skip
    assert [event.sequence for event in events] == list(range(1, 9))
    moved = [event.state_change for event in events if event.HasField("state_change")]
    assert [getattr(change, "from") for change in moved] == [0, *(c.to for c in moved[:-1])]


async def test_steps_move_the_progress(world: World) -> None:
    job = await claimed(world)
    await world.tell(job, 1, started=job_pb.TrainingStarted(total_steps=10))
    await world.tell(job, 2, step=step_event(4))
    await world.tell(job, 3, evaluation=job_pb.Evaluation(step=4, loss=0.75))
    await world.heard(job.name, 5)

    progress = (await world.get(job.name)).progress

    assert (progress.step, progress.total_steps, progress.percent) == (4, 10, 40)
    assert (progress.loss, progress.best_loss, progress.validation_loss) == (0.25, 0.25, 0.75)


async def test_answers_resumptions_and_reliefs_reach_watchers_only(world: World) -> None:
    job = await claimed(world)
    samples = job_pb.Samples(
        step=4, samples=[job_pb.Sample(prompt="late?", expected="no", output="yes")]
    )
    resumed = job_pb.TrainingResumed(step=4, checkpoint_digest="ab", exact=True)
    await world.tell(job, 1, samples=samples)
    await world.tell(job, 2, resumed=resumed)
    relieved = job_pb.TrainingRelieved(step=5, micro_batch_tokens=20, message="memory ran out")
    await world.tell(job, 3, relieved=relieved)

    events = await world.heard(job.name, 5)

    assert (events[2].samples, events[3].resumed) == (samples, resumed)
    assert events[4].relieved == relieved
    assert (await world.get(job.name)).progress.step == 0


RESUMED = job_pb.TrainingResumed(
    step=2,
    checkpoint_digest="ab",
    restored_digest="ab",
    exact=True,
    environment_changes=["threads 1 → 2"],
)


async def resumed_after_two_of_four_steps(world: World) -> TuningJob:
    """The job under its second attempt; `step_event` tells the losses of the first."""
    first = await claimed(world)
    for number in range(1, 5):
        await world.tell(first, number)
    await world.fail(first, "ENGINE_KILLED", event_count=4)
    lease = await world.claim()
    assert lease is not None
    await world.tell(lease.job, 1, resumed=RESUMED)
    return lease.job


async def test_a_resumption_is_certified_by_the_losses_of_the_steps_done_again(
    world: World,
) -> None:
    job = await resumed_after_two_of_four_steps(world)
    await world.heard(job.name, 9)
    expected = job_pb.ResumeCertificate(
        attempt=2,
        step=2,
        checkpoint_digest="ab",
        restored_digest="ab",
        exact=True,
        environment_changes=["threads 1 → 2"],
    )
    assert list((await world.get(job.name)).resume_certificates) == [expected]

    for number, step in enumerate((3, 4, 5), 2):
        await world.tell(job, number, step=step_event(step))
        await world.heard(job.name, 8 + number)

    expected.replayed_steps = 2
    assert list((await world.get(job.name)).resume_certificates) == [expected]
    done = await world.complete(job, event_count=4)
    assert list(done.resume_certificates) == [expected]


async def test_losses_that_differ_after_a_resumption_are_told(world: World) -> None:
    job = await resumed_after_two_of_four_steps(world)
    for number, loss in enumerate((1 / 3, 0.5), 2):
        await world.tell(job, number, step=job_pb.TrainingStep(step=number + 1, loss=loss))
    await world.heard(job.name, 11)

    (certificate,) = (await world.get(job.name)).resume_certificates

    assert (certificate.replayed_steps, certificate.max_loss_difference) == (2, 0.25)


async def test_steps_delivered_again_are_not_certified_again(world: World) -> None:
    job = await resumed_after_two_of_four_steps(world)
    again = [
        published(job, 1, resumed=RESUMED),
        published(job, 2, step=step_event(3)),
        published(job, 3, step=step_event(4)),
    ]
    for batch in (again[:2], again, again[1:], again * 2):
        async with world.store.writing() as tables:
            await hear(tables, batch)

    (certificate,) = (await world.get(job.name)).resume_certificates

    assert (certificate.replayed_steps, certificate.max_loss_difference) == (2, 0)


async def test_losses_of_an_earlier_attempt_that_come_late_are_compared_too(world: World) -> None:
    first = await claimed(world)
    await world.tell(first, 1)
    await world.fail(first, "ENGINE_KILLED", event_count=1)
    lease = await world.claim()
    assert lease is not None
    await world.tell(lease.job, 1, resumed=replace_step(1))
    await world.tell(lease.job, 2, step=job_pb.TrainingStep(step=2, loss=0.75))
    await world.heard(first.name, 7)

    await world.tell(first, 2)
    await world.heard(first.name, 8)

    (certificate,) = (await world.get(first.name)).resume_certificates
    assert (certificate.replayed_steps, certificate.max_loss_difference) == (1, 0.25)


async def test_each_resumption_has_a_certificate_of_its_own(world: World) -> None:
    job = await resumed_after_two_of_four_steps(world)
    await world.tell(job, 2, step=step_event(3))
    await world.fail(job, "ENGINE_KILLED", event_count=2)
    lease = await world.claim()
    assert lease is not None
    await world.tell(lease.job, 1, resumed=RESUMED)
    await world.tell(lease.job, 2, step=step_event(3))
    await world.heard(job.name, 14)

    told = (await world.get(job.name)).resume_certificates

    assert [(one.attempt, one.replayed_steps) for one in told] == [(2, 1), (3, 1)]


async def test_a_loss_that_is_not_a_number_is_told_as_such(world: World) -> None:
    job = await claimed(world)
    await world.tell(job, 1, step=job_pb.TrainingStep(step=1, loss=math.nan, best_loss=math.inf))
    await world.heard(job.name, 3)

    progress = (await world.get(job.name)).progress

    assert math.isnan(progress.loss)
    assert math.isinf(progress.best_loss)


async def test_an_event_delivered_again_is_there_once(world: World) -> None:
    job = await claimed(world)
    await world.tell(job, 1)
    first = await world.heard(job.name, 3)
    again, second = published(job, 1), published(job, 2)
    async with world.store.writing() as tables:
        await hear(tables, [again, again, second, again, second])

    await world.complete(job, event_count=2)

    assert kinds(await world.history(job.name)) == [*kinds(first), "1.2", "SUCCEEDED"]


async def test_an_event_of_an_earlier_attempt_is_history_but_no_progress(world: World) -> None:
    first = await claimed(world)
    await world.fail(first, "ENGINE_KILLED")
    lease = await world.claim()
    assert lease is not None
    await world.tell(lease.job, 1, step=step_event(2))
    await world.heard(first.name, 5)

    await world.tell(first, 1, step=step_event(7))
    events = await world.heard(first.name, 6)

    assert kinds(events) == ["QUEUED", "RUNNING", "QUEUED", "RUNNING", "2.1", "1.1"]
    assert (await world.get(first.name)).progress.step == 2


async def test_nothing_comes_after_the_end(world: World) -> None:
    job = await claimed(world)
    done = await world.complete(job)
    other = await claimed(world)

    await world.tell(job, 1)
    await world.tell(other, 1)
    await world.heard(other.name, 3)  # so the earlier one was delivered too

    assert kinds(await world.history(job.name)) == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert await world.get(job.name) == done


async def test_an_event_that_is_none_or_of_no_job_holds_up_nothing(world: World) -> None:
    job = await claimed(world)
    await world.bus.publish("anneal.jobs.default.nobody.events", b"\xff\xff", "garbage")
    await world.tell(TuningJob(name="projects/default/tuningJobs/nobody", attempt=1), 1)
    await world.tell(replace_attempt(job, 9), 1)

    await world.tell(job, 1)

    assert kinds(await world.heard(job.name, 3))[-1] == "1.1"


async def test_an_event_that_overtook_its_predecessor_waits_for_it(serve: Serve) -> None:
    async with serve(replace(FAST, events_grace_s=10)) as world:
        job = await claimed(world)
        for number in (1, 4, 3):
            await world.tell(job, number)
        await world.heard(job.name, 3)
        await world.tell(job, 2)

        await world.complete(job, event_count=4)

        assert kinds(await world.history(job.name))[2:-1] == ["1.1", "1.2", "1.3", "1.4"]


async def test_what_a_killed_process_had_in_hand_keeps_its_place(
    serve: Serve, nats_bus: NatsBus
) -> None:
    async with serve(bus=nats_bus) as before:
        job = await claimed(before)
    async with nats_bus.subscribe(DURABLE, SUBJECTS, ack_wait_s=3) as deliveries:
        for number in (1, 2, 3):
            await before.tell(job, number)
            await anext(deliveries)  # and dies without a word
    await before.tell(job, 4)

    async with serve(replace(FAST, events_grace_s=10), bus=nats_bus) as after:
        await after.complete(job, event_count=4)
        events = await after.history(job.name)

    assert kinds(events)[2:-1] == ["1.1", "1.2", "1.3", "1.4"]


async def test_events_behind_one_that_is_lost_are_kept_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "_EARLY_RETRY_S", 0.02)
    job = await claimed(world)
    for number in (1, 3, 4):
        await world.tell(job, number)

    assert kinds(await world.heard(job.name, 5))[2:] == ["1.1", "1.3", "1.4"]


async def test_the_end_waits_for_the_events_that_were_published(serve: Serve) -> None:
    async with serve(replace(FAST, events_grace_s=10)) as world:
        job = await claimed(world)
        ending = asyncio.create_task(world.complete(job, event_count=2))
        await asyncio.sleep(0.2)
        assert not ending.done()
        await world.tell(job, 1)
        await world.tell(job, 2)

        assert (await asyncio.wait_for(ending, 2)).state == TuningJob.STATE_SUCCEEDED

        assert kinds(await world.history(job.name))[-3:] == ["1.1", "1.2", "SUCCEEDED"]


async def test_events_that_never_come_delay_the_end_by_the_grace_only(world: World) -> None:
    job = await claimed(world)
    began = time.monotonic()

    done = await world.complete(job, event_count=100)

    assert done.state == TuningJob.STATE_SUCCEEDED
    assert 0.25 < time.monotonic() - began < 3


async def test_a_requeued_job_tells_its_events_before_it_waits_again(world: World) -> None:
    job = await claimed(world)
    await world.tell(job, 1)

    await world.fail(job, "ENGINE_ERROR", "boom", event_count=1)

    events = await world.heard(job.name, 4)
    assert kinds(events) == ["QUEUED", "RUNNING", "1.1", "QUEUED"]
    assert events[-1].state_change.cause == "the engine failed: boom"


async def test_what_is_published_while_the_control_plane_is_away_is_heard_later(
    serve: Serve, nats_bus: NatsBus
) -> None:
    async with serve(bus=nats_bus) as before:
        job = await claimed(before)
        await before.tell(job, 1)
        await before.heard(job.name, 3)
    for number in range(2, 101):
        await before.tell(job, number)

    async with serve(replace(FAST, events_grace_s=20), bus=nats_bus) as after:
        await after.complete(job, event_count=100)
        events = await after.history(job.name)

    assert [event.attempt_sequence for event in events[2:-1]] == list(range(1, 101))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_database_that_loses_its_connections_loses_no_event(
    world: World, database_url: str, postgres_server: Postgres
) -> None:
    job = await claimed(world)
    for number in range(1, 201):
        await world.tell(job, number)
        if number % 50 == 0:
            await postgres_server.disconnect_everybody(database_url)
    async with asyncio.timeout(20):
        while (await world.get(job.name)).progress.step < 200:
            await asyncio.sleep(0.1)

    await world.complete(job, event_count=200)

    events = await world.history(job.name)
    assert [event.attempt_sequence for event in events[2:-1]] == list(range(1, 201))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_two_hundred_events_a_second_are_no_burden(world: World) -> None:
    job = await claimed(world)
    for number in range(1, 401):
        await world.tell(job, number)
    began = time.monotonic()

    await world.heard(job.name, 402)

    assert time.monotonic() - began < 400 / 200


def replace_step(step: int) -> job_pb.TrainingResumed:
    resumed = job_pb.TrainingResumed()
    resumed.CopyFrom(RESUMED)
    resumed.step = step
    return resumed


def replace_attempt(job: TuningJob, attempt: int) -> TuningJob:
    return TuningJob(name=job.name, attempt=attempt)
