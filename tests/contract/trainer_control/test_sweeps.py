"""The life of sweeps: the transaction that ends a trial carries the sweep on."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid5

import grpc.aio
import pytest
from sqlmodel import col, update

from anneal.trainer.v1.tuning_job_pb2 import TuningJob
from anneal.trainer.v1.tuning_sweep_pb2 import TuningSweep
from services.common.ids import content_id
from services.trainer.control.adapters.tables import JobRow
from services.trainer.control.domain.changes import enter
from services.trainer.control.domain.errors import existing
from services.trainer.control.domain.names import TuningJobName
from tests.contract.trainer_control.conftest import Serve
from tests.contract.trainer_control.sweep_player import Player, playing, rate_of, shape
from tests.contract.trainer_control.world import ADAPTER, FAST, PARENT, World, refused


def distance(best: float) -> Callable[[TuningJob], float]:
    """The loss is the lower the nearer the learning rate is to `best`."""
    return lambda job: abs(rate_of(job) - best)


async def test_a_sweep_ends_with_the_best_trial_as_its_only_model_version(player: Player) -> None:
    sweep = await player.create()

    trained = await player.train(distance(0.003))

    ended = await player.get(sweep.name)
    assert ended.state == TuningSweep.STATE_SUCCEEDED
    assert shape(ended) == [(1, 10)] * 5 + [(2, 30)] * 2 + [(3, 90)]
    second, last = ended.trials[5:7], ended.trials[7]
    assert {trial.learning_rate for trial in second} == {0.003, 0.001}
    assert (last.learning_rate, last.state) == (0.003, TuningJob.STATE_SUCCEEDED)
    assert (ended.winner, last.validation_loss) == (last.tuning_job, 0.0)
    assert ended.model_version == f"{PARENT}/models/support/versions/{content_id(ADAPTER)}"
    assert ended.HasField("end_time")
    assert [job.model_version for job in trained] == [""] * 7 + [ended.model_version]
    (told,) = await player.registered()
    assert (told.job.name, told.job.model_version) == (ended.winner, ended.model_version)
    assert (told.job.tuning_sweep, told.manifest_digest) == (sweep.name, ADAPTER)
    assert told.metrics["validation_loss"] == 0.0


async def test_ranks_are_tried_with_every_learning_rate(player: Player) -> None:
    sweep = await player.create(ranks=[2, 4], learning_rates=[0.001, 0.01], first_rung_steps=90)

    assert [(trial.learning_rate, trial.rank) for trial in sweep.trials] == [
        (0.001, 2),
        (0.001, 4),
        (0.01, 2),
        (0.01, 4),
    ]
    await player.train(lambda job: abs(job.lora.rank - 4) + rate_of(job))
    ended = await player.get(sweep.name)
    (won,) = [trial for trial in ended.trials if trial.tuning_job == ended.winner]
    assert (won.learning_rate, won.rank) == (0.001, 4)


async def test_a_winner_that_ended_before_others_is_registered_with_its_own_result(
    player: Player,
) -> None:
    await player.create("grid", learning_rates=[0.1, 0.2], first_rung_steps=90)
    better, worse = await player.claimed(2)

    await player.end(better, 1.0, "aa" * 32)
    assert not await player.registered()
    await player.end(worse, 2.0, "bb" * 32)

    (told,) = await player.registered()
    assert (told.job.name, told.manifest_digest) == (better.name, "aa" * 32)
    assert (await player.world.get(better.name)).model_version == told.job.model_version
    assert (await player.world.get(worse.name)).model_version == ""
    assert (await player.get(f"{PARENT}/tuningSweeps/grid")).winner == better.name


async def test_trials_that_fail_or_are_cancelled_count_as_the_worst(player: Player) -> None:
    sweep = await player.create(learning_rates=[0.1, 0.2, 0.3, 0.4], reduction=2)
    await player.world.cancel(sweep.trials[0].tuning_job)

    await player.train(lambda job: None if rate_of(job) == 0.4 else rate_of(job))

    ended = await player.get(sweep.name)
    assert ended.state == TuningSweep.STATE_SUCCEEDED
    assert ended.trials[0].state == TuningJob.STATE_CANCELLED
    assert ended.trials[3].state == TuningJob.STATE_FAILED
    assert {trial.learning_rate for trial in ended.trials[4:]} == {0.2, 0.3}
    assert ended.trials[-1].learning_rate == 0.2


async def test_a_rung_without_a_loss_fails_the_sweep_and_says_why(player: Player) -> None:
    sweep = await player.create(learning_rates=[0.1, 0.2])

    await player.train(lambda job: None)

    ended = await player.get(sweep.name)
    assert ended.state == TuningSweep.STATE_FAILED
    assert ended.error.message == (
        "no trial of rung 1 gave a held-out loss: "
        "the training diverged: loss nan at step 3 (2 trials)"
    )
    assert (ended.winner, ended.model_version) == ("", "")
    assert not await player.registered()


async def test_a_sweep_whose_last_trial_is_cancelled_by_hand_goes_on(player: Player) -> None:
    sweep = await player.create(learning_rates=[0.1, 0.2])
    first, second = await player.claimed(2)
    await player.end(first, 1.0)

    cancelling = await player.world.cancel(second.name)
    assert cancelling.state == TuningJob.STATE_CANCELLING
    assert len((await player.get(sweep.name)).trials) == 2
    await player.world.fail(second, "CANCELLED")

    assert shape(await player.get(sweep.name)) == [(1, 30), (1, 30), (2, 90)]


async def test_a_trial_that_is_tried_again_has_not_ended(player: Player) -> None:
    sweep = await player.create(learning_rates=[0.1])
    (job,) = await player.claimed(1)

    await player.world.fail(job, "ENGINE_ERROR")

    found = await player.get(sweep.name)
    assert (found.state, found.trials[0].state) == (
        TuningSweep.STATE_RUNNING,
        TuningJob.STATE_QUEUED,
    )
    assert found.etag == sweep.etag


async def test_a_trial_whose_node_is_lost_for_good_carries_the_sweep_on(serve: Serve) -> None:
    async with (
        serve(replace(FAST, lease_s=0.3)) as world,
        playing(world) as player,
    ):
        sweep = await player.create(tuning_job=player.job(max_attempts=1), learning_rates=[0.1])
        await player.claimed(1)
        async with asyncio.timeout(5):
            while (found := await player.get(sweep.name)).state == TuningSweep.STATE_RUNNING:
                await asyncio.sleep(0.05)

    assert found.state == TuningSweep.STATE_FAILED
    assert "the node stopped responding (1 trial)" in found.error.message


@pytest.mark.parametrize("prefix", ["trial-2-1-112b3eff318f", "trial-x", "trial-1"])
async def test_the_ids_of_trials_are_refused_to_callers(player: Player, prefix: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await player.world.create(prefix)

    assert refused(refusal).code == "INVALID_ARGUMENT"
    assert refused(refusal).reason_of == {"tuning_job_id": "RESERVED_ID"}


async def test_a_job_with_the_id_of_the_next_trial_keeps_it_and_the_sweep_goes_on(
    player: Player,
) -> None:
    sweep = await player.create(learning_rates=[0.1, 0.2])
    first, second = await player.claimed(2)
    uid = str(uuid5(UUID(sweep.uid), "2/1"))
    taken = f"{PARENT}/tuningJobs/trial-2-1-{uid[-12:]}"
    other = TuningJobName.parse((await player.world.create("other")).name)
    async with player.world.store.writing() as unit:  # as an older version let callers do
        job = existing(other, await unit.jobs.find(other))
        await enter(unit, replace(job, name=TuningJobName.parse(taken), uid=uid))

    await player.end(first, 1.0)
    assert (await player.end(second, 2.0)).state == TuningJob.STATE_SUCCEEDED

    found = await player.get(sweep.name)
    assert shape(found) == [(1, 30), (1, 30), (2, 90)]
    assert found.trials[2].tuning_job != taken
    await player.train(rate_of)
    assert (await player.get(sweep.name)).winner == found.trials[2].tuning_job
    assert (await player.world.get(taken)).tuning_sweep == ""


async def test_a_job_that_can_not_be_taken_back_does_not_keep_the_others(serve: Serve) -> None:
    async with serve(replace(FAST, lease_s=0.3)) as world:
        await world.create("bad")
        await world.create("good")
        for _ in range(2):
            assert await world.claim() is not None
        bad, good = f"{PARENT}/tuningJobs/bad", f"{PARENT}/tuningJobs/good"
        await altered(world, bad, tuning_sweep=f"{PARENT}/tuningSweeps/nowhere")
        async with asyncio.timeout(5):
            while (await world.get(good)).state != TuningJob.STATE_QUEUED:
                await asyncio.sleep(0.05)

        assert (await world.get(bad)).state == TuningJob.STATE_RUNNING


async def altered(world: World, job: str, **values: str) -> None:
    """Writes into a job's row what no call would."""
    row = update(JobRow).where(col(JobRow.name) == job).values(values)
    async with world.store.writing() as tables:
        await tables.session.exec(row)


async def test_trials_that_end_at_the_same_moment_in_two_replicas_make_one_next_rung(
    serve: Serve,
) -> None:
    async with (
        serve() as world,
        serve() as other,
        playing(world) as player,
        playing(other) as twin,
    ):
        rates = [0.001 * place for place in range(1, 17)]
        sweep = await player.create(learning_rates=rates, reduction=2, first_rung_steps=1)
        jobs = await player.claimed(16)

        await asyncio.gather(
            *((player, twin)[place % 2].end(job, rate_of(job)) for place, job in enumerate(jobs))
        )

        found = await twin.get(sweep.name)
        assert shape(found) == [(1, 1)] * 16 + [(2, 2)] * 8
        assert {trial.learning_rate for trial in found.trials[16:]} == set(rates[:8])
        await player.train(rate_of)
        assert (await twin.get(sweep.name)).state == TuningSweep.STATE_SUCCEEDED
        assert len(await player.registered()) == 1


async def test_an_ending_told_twice_is_heard_once(player: Player) -> None:
    sweep = await player.create(learning_rates=[0.1])
    (job,) = await player.claimed(1)

    first = await player.end(job, 1.0)
    assert await player.end(job, 1.0) == first

    assert (await player.get(sweep.name)).winner == job.name
    assert len(await player.registered()) == 1


async def test_a_cancelled_sweep_stops_its_trials_and_hears_nothing_more(player: Player) -> None:
    sweep = await player.create(learning_rates=[0.1, 0.2, 0.3])
    ended, running = await player.claimed(2)
    await player.end(ended, 1.0)

    cancelled = await player.cancel(sweep.name)

    assert cancelled.state == TuningSweep.STATE_CANCELLED
    assert [trial.state for trial in cancelled.trials] == [
        TuningJob.STATE_SUCCEEDED,
        TuningJob.STATE_CANCELLING,
        TuningJob.STATE_CANCELLED,
    ]
    assert await player.cancel(sweep.name) == cancelled
    await player.world.fail(running, "CANCELLED")
    after = await player.get(sweep.name)
    assert (after.state, len(after.trials)) == (TuningSweep.STATE_CANCELLED, 3)
    assert after.trials[1].state == TuningJob.STATE_CANCELLED
    assert not await player.registered()
    (last, *_) = [event async for event in player.world.watch(sweep.trials[2].tuning_job, 1)]
    assert last.event.state_change.cause == f"{sweep.name} was cancelled"


async def test_a_sweep_is_cancelled_only_as_it_was_seen_and_while_it_runs(player: Player) -> None:
    sweep = await player.create(learning_rates=[0.1])
    (job,) = await player.claimed(1)
    await player.end(job, 1.0)

    with pytest.raises(grpc.aio.AioRpcError) as stale:
        await player.cancel(sweep.name, sweep.etag)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await player.cancel(sweep.name)

    assert refused(stale).reason == "STALE_ETAG"
    assert (refused(late).code, refused(late).reason) == ("FAILED_PRECONDITION", "WRONG_STATE")


async def test_cancels_and_endings_at_once_leave_no_trial_behind(serve: Serve) -> None:
    async with (
        serve() as world,
        serve() as other,
        playing(world) as player,
        playing(other) as twin,
    ):
        sweep = await player.create(learning_rates=[0.1, 0.2, 0.3, 0.4])
        jobs = await player.claimed(4)

        await asyncio.gather(
            *(player.end(job, 1.0) for job in jobs),
            twin.cancel(sweep.name),
            return_exceptions=True,
        )

        found = await player.get(sweep.name)
        assert found.state == TuningSweep.STATE_CANCELLED
        assert await player.world.claim() is None
        assert not await player.registered()
