"""SweepTuningJob, Get and List: what is refused, and what the defaults come to."""

import asyncio
from typing import Any

import grpc.aio
import pytest

from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_sweep_service_pb2 as service_pb
from anneal.trainer.v1.tuning_job_pb2 import TrainingParameters, TuningJob
from anneal.trainer.v1.tuning_job_service_pb2 import ListTuningJobsRequest
from anneal.trainer.v1.tuning_sweep_pb2 import TuningSweep
from tests.contract.trainer_control.sweep_player import Player, rate_of, shape
from tests.contract.trainer_control.world import PARENT, refused

VERSION = f"{PARENT}/models/support/versions/v-fedcba0987654321"


async def test_a_new_sweep_queues_its_first_rung_with_every_default_resolved(
    player: Player,
) -> None:
    sweep = await player.create("first", tuning_job=player.job(labels={"team": "support"}))

    assert sweep.name == f"{PARENT}/tuningSweeps/first"
    assert sweep.state == TuningSweep.STATE_RUNNING
    assert list(sweep.learning_rates) == [0.0001, 0.0003, 0.001, 0.003, 0.01]
    assert (list(sweep.ranks), sweep.reduction, sweep.first_rung_steps) == ([8], 3, 10)
    assert sweep.tuning_job.dataset_version.endswith("/versions/v-1234567890abcdef")
    assert sweep.tuning_job.model == f"{PARENT}/models/support"
    assert shape(sweep) == [(1, 10)] * 5
    assert {trial.state for trial in sweep.trials} == {TuningJob.STATE_QUEUED}
    assert not any(trial.HasField("validation_loss") for trial in sweep.trials)
    assert await player.get(sweep.name) == sweep
    for trial in sweep.trials:
        job = await player.world.get(trial.tuning_job)
        assert (job.tuning_sweep, dict(job.labels)) == (sweep.name, {"team": "support"})
        assert (job.training.max_steps, rate_of(job)) == (10, trial.learning_rate)
        assert (job.training.warmup_steps, job.lora.rank) == (1, trial.rank)


async def test_every_violation_is_told_at_once(player: Player) -> None:
    training = TrainingParameters(validation_fraction=0, batch_size=5000)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await player.create(
            "Not_An_Id",
            request_id="not-a-uuid",
            tuning_job=player.job(base_model="baseModels/unknown", training=training),
            learning_rates=[0.1, 2.0, float("nan")],
            ranks=[0, 513],
            reduction=9,
            first_rung_steps=-1,
        )

    fields = refused(refusal).reason_of
    assert fields["tuning_sweep.tuning_job.base_model"] == "BASE_MODEL_NOT_FOUND"
    assert set(fields) == {
        "tuning_sweep_id",
        "request_id",
        "tuning_sweep.tuning_job.base_model",
        "tuning_sweep.tuning_job.training.max_steps",
        "tuning_sweep.tuning_job.training.validation_fraction",
        "tuning_sweep.tuning_job.training.batch_size",
        "tuning_sweep.learning_rates.1",
        "tuning_sweep.learning_rates.2",
        "tuning_sweep.ranks.0",
        "tuning_sweep.ranks.1",
        "tuning_sweep.reduction",
        "tuning_sweep.first_rung_steps",
    }


async def test_a_search_that_can_not_be_made_is_refused_with_all_reasons(player: Player) -> None:
    training = TrainingParameters(validation_fraction=0, batch_size=5000)
    job = player.job(training=training, lora=None, full=job_pb.FullMethod())
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await player.create(tuning_job=job, ranks=[4], learning_rates=[0.1, 0.1], reduction=9)

    assert refused(refusal).reason_of == {
        "tuning_sweep.tuning_job.training.max_steps": "MISSING",
        "tuning_sweep.tuning_job.training.validation_fraction": "OUT_OF_RANGE",
        "tuning_sweep.tuning_job.training.batch_size": "LESS_THAN_EQUAL",
        "tuning_sweep.learning_rates": "DUPLICATE",
        "tuning_sweep.ranks": "NO_RANK",
        "tuning_sweep.reduction": "LESS_THAN_EQUAL",
    }


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({"first_rung_steps": 91}, {"tuning_sweep.first_rung_steps": "OUT_OF_RANGE"}),
        (
            {"learning_rates": [place / 100 for place in range(1, 18)]},
            {"tuning_sweep.learning_rates": "TOO_LONG"},
        ),
        ({"ranks": [1, 2, 3, 4, 5, 6, 7, 8, 9]}, {"tuning_sweep.ranks": "TOO_LONG"}),
        ({"reduction": 1}, {"tuning_sweep.reduction": "GREATER_THAN_EQUAL"}),
    ],
)
async def test_limits_of_a_search(
    player: Player, fields: dict[str, Any], reasons: dict[str, str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await player.create(**fields)

    assert refused(refusal).reason_of == reasons


async def test_ranks_can_not_be_searched_while_going_on_from_a_version(player: Player) -> None:
    job = player.job(start_version=VERSION)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await player.create(tuning_job=job, ranks=[8, 16])

    assert refused(refusal).reason_of == {"tuning_sweep.ranks": "OTHER_METHOD"}
    sweep = await player.create(tuning_job=job)
    assert (await player.world.get(sweep.trials[0].tuning_job)).start_version == VERSION


async def test_a_method_without_ranks_is_searched_by_learning_rate_alone(player: Player) -> None:
    sweep = await player.create(tuning_job=player.job(lora=None, full=job_pb.FullMethod()))

    assert (list(sweep.ranks), {trial.rank for trial in sweep.trials}) == ([], {0})


async def test_default_rates_above_1_are_left_out(player: Player) -> None:
    training = TrainingParameters(max_steps=10, learning_rate=0.2)

    sweep = await player.create(tuning_job=player.job(training=training))

    assert list(sweep.learning_rates) == [0.02, 0.06, 0.2, 0.6]


async def test_validate_only_answers_as_if_made_and_makes_nothing(player: Player) -> None:
    sweep = await player.create("dry", validate_only=True)

    assert len(sweep.trials) == 5
    assert {trial.state for trial in sweep.trials} == {TuningJob.STATE_QUEUED}
    assert await player.world.claim() is None
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await player.get(sweep.name)
    assert refused(refusal).reason == "TUNING_SWEEP_NOT_FOUND"
    await player.create("dry")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await player.create("dry", validate_only=True)
    assert refused(refusal).reason == "TUNING_SWEEP_EXISTS"


async def test_one_request_id_makes_one_sweep(player: Player, request_id: str) -> None:
    answers = await asyncio.gather(
        *(player.create(request_id=request_id) for _ in range(20)),
    )

    assert len({answer.name for answer in answers}) == 1
    player.world.datasets.down = True  # a repetition needs no other service
    assert await player.create(request_id=request_id) == answers[0]
    jobs = await player.world.jobs.ListTuningJobs(ListTuningJobsRequest(parent=PARENT))
    assert len(jobs.tuning_jobs) == 5
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await player.create(request_id=request_id, reduction=2)
    assert refused(refusal).reason_of == {"request_id": "REQUEST_ID_REUSED"}


async def test_a_taken_id_is_refused_and_leaves_no_trials(player: Player) -> None:
    await player.create("taken", learning_rates=[0.1])

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await player.create("taken", learning_rates=[0.2])

    assert (refused(refusal).code, refused(refusal).reason) == (
        "ALREADY_EXISTS",
        "TUNING_SWEEP_EXISTS",
    )
    assert len(await player.claimed(2)) == 1


async def test_pages_hold_every_sweep_once_newest_first(player: Player) -> None:
    made = [await player.create(learning_rates=[0.1]) for _ in range(5)]

    seen: list[TuningSweep] = []
    token = ""
    while True:
        page = await player.rpc.ListTuningSweeps(
            service_pb.ListTuningSweepsRequest(parent=PARENT, page_size=2, page_token=token)
        )
        seen += page.tuning_sweeps
        token = page.next_page_token
        if not token:
            break

    assert seen == made[::-1]
    other = service_pb.ListTuningSweepsRequest(parent="projects/other")
    assert not (await player.rpc.ListTuningSweeps(other)).tuning_sweeps
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await player.rpc.ListTuningSweeps(
            service_pb.ListTuningSweepsRequest(parent=PARENT, page_token="edited")
        )
    assert refused(refusal).reason == "PAGE_TOKEN_INVALID"


async def test_a_page_is_at_most_what_a_message_holds(player: Player) -> None:
    for _ in range(51):
        await player.create(learning_rates=[0.1])

    request = service_pb.ListTuningSweepsRequest(parent=PARENT, page_size=1000)
    page = await player.rpc.ListTuningSweeps(request)

    assert len(page.tuning_sweeps) == 50
    assert page.next_page_token


async def test_trials_are_told_from_other_jobs_in_lists(player: Player) -> None:
    alone = await player.world.create("alone")
    sweep = await player.create(learning_rates=[0.1, 0.2])

    async def listed(filter: str) -> set[str]:
        request = ListTuningJobsRequest(parent=PARENT, filter=filter)
        return {job.name for job in (await player.world.jobs.ListTuningJobs(request)).tuning_jobs}

    trials = {trial.tuning_job for trial in sweep.trials}
    assert await listed(f'tuning_sweep = "{sweep.name}"') == trials
    assert await listed('tuning_sweep = ""') == {alone.name}
