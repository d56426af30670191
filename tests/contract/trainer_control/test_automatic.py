"""Hyperparameters left to `auto`, over the wire."""

from typing import Any

import grpc.aio
import pytest

from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from tests.contract.trainer_control.sweep_player import Player
from tests.contract.trainer_control.test_estimates import GPU, LLAMA
from tests.contract.trainer_control.world import PARENT, World, refused


def automatic(**training: Any) -> job_pb.TrainingParameters:
    return job_pb.TrainingParameters(auto=True, **training)


async def test_what_is_left_out_is_chosen_and_shown(world: World) -> None:
    """300 examples, of which 270 are learnt, on a model 2,048 wide."""
    made = await world.create(base_model="baseModels/llama", training=automatic(epochs=4))
    training = made.training

    assert training.auto
    assert training.epochs == 4
    assert training.learning_rate == 4.9e-4
    assert (training.batch_size, training.micro_batch_tokens) == (8, 8192)
    assert (training.warmup_steps, training.evaluate_every, training.checkpoint_every) == (
        5,
        14,
        14,
    )
    assert training.early_stopping_patience == 3
    assert (await world.get(made.name)).training == training
    lease = await world.claim()
    assert lease is not None
    assert lease.job.training == training


async def test_without_auto_the_defaults_stay(world: World) -> None:
    training = (await world.create(base_model="baseModels/llama")).training

    assert not training.auto
    assert (training.learning_rate, training.epochs, training.warmup_steps) == (2e-4, 3, 10)


async def test_a_base_model_of_unknown_build_takes_the_rules_that_need_it_not(
    world: World,
) -> None:
    training = (await world.create(training=automatic())).training

    assert training.learning_rate == 2e-4
    assert training.epochs == 9


async def test_what_is_set_is_checked_all_the_same(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create(training=automatic(batch_size=0, learning_rate=2))

    assert set(refused(refusal).reason_of) == {
        "tuning_job.training.batch_size",
        "tuning_job.training.learning_rate",
    }


async def test_an_estimate_counts_the_steps_that_are_chosen(world: World) -> None:
    asked = world.draft(training=automatic())
    request = service_pb.EstimateTuningJobRequest(
        parent=PARENT, tuning_job=asked, device=GPU, architecture=LLAMA, mean_example_tokens=300
    )
    (one,) = (await world.jobs.EstimateTuningJob(request)).estimates

    assert one.total_steps == 9 * 34


async def test_a_sweep_looks_around_the_rate_that_is_chosen(player: Player) -> None:
    job = player.job(base_model="baseModels/llama", training=automatic(max_steps=90))
    sweep = await player.create(tuning_job=job)

    assert 4.9e-4 in sweep.learning_rates
    assert sweep.tuning_job.training.warmup_steps == 3
    assert {trial.state for trial in sweep.trials} == {job_pb.TuningJob.STATE_QUEUED}
