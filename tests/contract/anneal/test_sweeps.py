"""client.sweeps and `anneal sweep`."""

import io
import json
import time

import grpc
import pytest
from rich.console import Console

from anneal.addresses import Addresses
from anneal.cli.root import run
from anneal.cli.sweep_watching import LiveTable
from anneal.client import Client
from anneal.errors import DeadlineExceeded
from anneal.trainer.v1.tuning_job_pb2 import (
    PRIORITY_HIGH,
    PRIORITY_LOW,
    LoraMethod,
    TrainingParameters,
    TuningJob,
)
from anneal.trainer.v1.tuning_sweep_pb2 import Trial, TuningSweep
from services.common.testing.free_port import free_port
from tests.contract.anneal.scripted import VERSION_ID, World, status

Captured = pytest.CaptureFixture[str]

NAME = "projects/default/tuningSweeps/sweep-1"
VERSION = f"projects/default/models/support/versions/{VERSION_ID}"


def trial(
    name: str,
    rung: int,
    rate: float,
    state: TuningJob.State.ValueType = TuningJob.STATE_QUEUED,
    loss: float | None = None,
) -> Trial:
    return Trial(
        tuning_job=f"projects/default/tuningJobs/{name}",
        rung=rung,
        learning_rate=rate,
        rank=8,
        steps=10 * 9 ** (rung - 1),
        state=state,
        validation_loss=loss,
    )


def sweep(
    *trials: Trial, state: TuningSweep.State.ValueType = TuningSweep.STATE_RUNNING
) -> TuningSweep:
    job = TuningJob(lora=LoraMethod(rank=8), training=TrainingParameters(max_steps=90))
    return TuningSweep(
        name=NAME, state=state, tuning_job=job, learning_rates=[0.1, 0.2], ranks=[8], trials=trials
    )


DONE = TuningJob.STATE_SUCCEEDED


def story() -> list[TuningSweep]:
    """Two candidates, of which one fails, and the other wins."""
    won = sweep(
        trial("a", 1, 0.1, DONE, 2.5),
        trial("b", 1, 0.2, TuningJob.STATE_FAILED),
        trial("c", 2, 0.1, DONE, 1.25),
        state=TuningSweep.STATE_SUCCEEDED,
    )
    won.winner, won.model_version = won.trials[2].tuning_job, VERSION
    begun = sweep(trial("a", 1, 0.1), trial("b", 1, 0.2))
    return [
        begun,
        begun,
        sweep(trial("a", 1, 0.1, DONE, 2.5), trial("b", 1, 0.2, TuningJob.STATE_RUNNING)),
        sweep(*won.trials[:2], trial("c", 2, 0.1)),
        won,
    ]


@pytest.fixture
def world(world: World) -> World:
    world.sweeps = story()
    return world


def test_a_watch_yields_the_sweep_after_each_change(client: Client) -> None:
    seen = list(client.sweeps.watch("sweep-1", poll_s=0))

    assert seen == story()[1:]


def test_a_watch_survives_a_service_that_is_away(client: Client, world: World) -> None:
    world.refuse["GetTuningSweep"] = lambda: status(grpc.StatusCode.UNAVAILABLE, "DOWN", "down")

    assert client.sweeps.wait("sweep-1") == story()[-1]


def test_a_watch_ends_when_its_time_is_over(client: Client, world: World) -> None:
    world.sweeps = story()[:1]
    with pytest.raises(DeadlineExceeded, match="it goes on"):
        client.sweeps.wait("sweep-1", timeout_s=0)


@pytest.mark.parametrize("poll_s", [0.01, 60])
def test_a_watch_ends_in_time_whatever_it_waits_for(
    client: Client, world: World, poll_s: float
) -> None:
    world.sweeps = story()[:1]
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="it goes on"):
        list(client.sweeps.watch("sweep-1", timeout_s=0.2, poll_s=poll_s))
    assert 0.15 < time.monotonic() - started < 1


def test_a_service_that_stays_away_does_not_prolong_a_watch() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    with Client(Addresses(*[nobody] * 5), environment={}) as client:
        with pytest.raises(DeadlineExceeded, match="it goes on"):
            client.sweeps.wait("sweep-1", timeout_s=0.5)
        with pytest.raises(DeadlineExceeded, match="it goes on"):
            client.jobs.wait("job-1", timeout_s=0.5)
    assert time.monotonic() - started < 3


def test_a_sweep_asks_for_the_job_and_where_to_look(client: Client, world: World) -> None:
    job = client.jobs.describe("support", "tiny-base", training=TrainingParameters(max_steps=90))

    client.sweeps.create(job, learning_rates=[0.1], ranks=[4, 8], reduction=2, first_rung_steps=5)

    (request,) = world.requests("SweepTuningJob")
    assert request.parent == "projects/default"
    assert request.request_id
    asked = request.tuning_sweep
    assert asked.tuning_job.WhichOneof("method") == "lora"
    asked.tuning_job.ClearField("lora")
    assert asked.tuning_job == job
    assert (list(asked.learning_rates), list(asked.ranks)) == ([0.1], [4, 8])
    assert (asked.reduction, asked.first_rung_steps) == (2, 5)


CREATE = ["sweep", "create", "--dataset", "support", "--base", "tiny-base", "--max-steps", "90"]


@pytest.mark.usefixtures("environment")
class TestCommand:
    def test_options_of_the_job_and_of_the_search_arrive(
        self, world: World, capsys: Captured
    ) -> None:
        options = (
            "--rank 4 --seed 3 --try-learning-rate 0.1 --try-learning-rate 0.2 --try-rank 4 "
            "--priority low --require gpu=h200"
        )
        assert run([*CREATE, *options.split(), "--reduction", "4", "--name", "mine"]) == 0

        (request,) = world.requests("SweepTuningJob")
        asked = request.tuning_sweep
        assert request.tuning_sweep_id == "mine"
        assert (asked.tuning_job.lora.rank, asked.tuning_job.seed) == (4, 3)
        assert asked.tuning_job.training.max_steps == 90
        assert asked.tuning_job.priority == PRIORITY_LOW
        assert asked.tuning_job.requirements.node_labels == {"gpu": "h200"}
        assert (list(asked.learning_rates), list(asked.ranks)) == ([0.1, 0.2], [4])
        assert (asked.reduction, asked.first_rung_steps) == (4, 0)
        assert capsys.readouterr().out == "sweep-1 is RUNNING: 2 trials of 10 steps\n"

    def test_a_watched_sweep_tells_its_rungs_and_its_winner(self, capsys: Captured) -> None:
        assert run(["sweep", "watch", "sweep-1"]) == 0

        assert capsys.readouterr().out.splitlines() == [
            "rung 1: 2 trials of 10 steps",
            "a  learning rate 0.1, rank 8: SUCCEEDED, held-out loss 2.5000",
            "b  learning rate 0.2, rank 8: FAILED",
            "rung 2: 1 trial of 90 steps",
            "c  learning rate 0.1, rank 8: SUCCEEDED, held-out loss 1.2500",
            f"sweep-1 SUCCEEDED: support/{VERSION_ID}, learning rate 0.1, rank 8",
            f"next: anneal chat support/{VERSION_ID}",
        ]

    def test_a_sweep_that_fails_exits_6_with_the_cause(
        self, world: World, capsys: Captured
    ) -> None:
        failed = sweep(trial("a", 1, 0.1, TuningJob.STATE_FAILED), state=TuningSweep.STATE_FAILED)
        failed.error.message = "no trial gave a loss"
        world.sweeps = [failed]

        assert run([*CREATE, "--watch"]) == 6
        assert capsys.readouterr().out.splitlines()[-1] == "sweep-1 FAILED: no trial gave a loss"

    def test_programs_get_a_line_for_each_change(self, capsys: Captured) -> None:
        assert run(["sweep", "watch", "sweep-1", "-o", "json"]) == 0

        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [len(line["trials"]) for line in lines] == [2, 2, 3, 3]

    def test_a_sweep_is_listed_shown_and_cancelled(self, world: World, capsys: Captured) -> None:
        world.sweeps = story()[-1:]
        world.sweeps[0].tuning_job.priority = PRIORITY_HIGH
        assert run(["sweep", "list"]) == 0
        cells = capsys.readouterr().out.split("\t")
        assert cells[:4] == [
            "sweep-1",
            "SUCCEEDED",
            "3",
            "learning rate 0.1, rank 8, held-out loss 1.2500",
        ]
        assert run(["sweep", "show", "sweep-1"]) == 0
        shown = capsys.readouterr().out
        assert "rung 2  c  learning rate 0.1, rank 8: SUCCEEDED, held-out loss 1.2500" in shown
        assert f"support/{VERSION_ID}" in shown
        assert ["priority", "high"] in [line.split() for line in shown.splitlines()]
        assert run(["sweep", "cancel", "sweep-1"]) == 0
        assert capsys.readouterr().out == "sweep-1 is CANCELLED\n"
        assert run(["sweep", "show", "nope"]) == 3

    def test_nothing_is_made_to_validate(self, world: World, capsys: Captured) -> None:
        assert run([*CREATE, "--validate-only"]) == 0

        assert capsys.readouterr().out.startswith("all good; nothing was created.")
        (request,) = world.requests("SweepTuningJob")
        assert request.validate_only


def test_the_table_has_a_row_for_each_trial_and_marks_the_winner(client: Client) -> None:
    screen = io.StringIO()
    with LiveTable(client.names.short, Console(file=screen, width=100)) as table:
        table.show(story()[-1])

    rows = [line.split() for line in screen.getvalue().splitlines()]
    assert ["1", "a", "0.1", "8", "10", "SUCCEEDED", "2.5000"] in rows
    assert ["1", "b", "0.2", "8", "10", "FAILED"] in rows
    assert ["2", "c", "0.1", "8", "90", "WON", "1.2500"] in rows
