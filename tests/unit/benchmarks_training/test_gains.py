"""The ladder from the usual way to the whole engine, and what takes turns on it."""

import io
import json
from collections.abc import Generator

import pytest
import torch

from benchmarks.engine_gains import (
    SWITCHES,
    Side,
    Turn,
    Turns,
    sides,
    table,
    train_in_turns,
    write_side,
)
from benchmarks.equal_batches import differences, write_equal_job
from benchmarks.equal_batches import table as loss_table
from benchmarks.plain_recipe import load_run
from benchmarks.training.sizes import Size
from benchmarks.training.workload import Workload, write_workload
from services.trainer.engine.events import Event, StepDone
from services.trainer.engine.job import Job, read_job
from services.trainer.engine.process import StopRequest
from services.trainer.engine.run import run_job
from services.trainer.engine.team import Team

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SECOND = Turn(tokens=100, cpu_s=1.0, wall_s=1.0, peak_bytes=2_000_000)
HALF = Turn(tokens=100, cpu_s=0.5, wall_s=1.0, peak_bytes=3_000_000)


@pytest.fixture(autouse=True)
def arithmetic_as_before() -> Generator[None]:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, tiny: Size) -> Workload:
    return write_workload(tmp_path_factory.mktemp("few"), [tiny], count=12)


def test_every_switch_has_a_side_and_each_side_one_gain_more(tiny: Size) -> None:
    ladder = {side.name: side for side in sides(tiny)}
    first, *others = ladder.values()
    assert not first.than
    gained = [set(side.on) - set(ladder[side.than].on) for side in others]
    assert {name for names in gained for name in names} == set(SWITCHES)
    for side, names in zip(others, gained, strict=True):
        before = ladder[side.than]
        changed = [
            bool(names),
            side.plain != before.plain,
            side.huge_pages != before.huge_pages,
            side.training != before.training,
        ]
        assert sum(changed) == 1 or side.name == "+ packing instead of group_by_length", side


def test_a_row_tells_how_far_a_side_is_ahead_of_the_one_with_a_gain_less() -> None:
    ladder = [Side("a"), Side("b", than="a"), Side("c", than="b")]
    turns = {"a": [SECOND] * 3, "b": [SECOND, HALF, HALF], "c": [SECOND] * 3}
    assert list(table(ladder, turns)) == [
        "| a | 100 | 100 to 100 |  | 1.00 | 2 |",
        "| b | 200 | 100 to 200 | 2.00 | 2.00 | 3 |",
        "| c | 100 | 100 to 100 | 0.50 | 1.00 | 2 |",
    ]


@pytest.mark.parametrize("number", [0, 2], ids=["plain", "all off"])
def test_a_side_trains_on_all_examples_each_time_that_it_is_asked(
    number: int, few: Workload, tiny: Size
) -> None:
    side = sides(tiny)[number]
    job = read_job(write_side(side, few, tiny))
    assert {name: getattr(job.switches, name) for name in SWITCHES} == {
        name: name in side.on for name in SWITCHES
    }
    told = io.StringIO()
    with pytest.raises(SystemExit):
        train_in_turns(job, Turns(io.StringIO("\n\n"), told), plain=side.plain)
    turns = [Turn(**json.loads(line)) for line in told.getvalue().splitlines()]
    assert [turn.tokens for turn in turns] == [few.tokens] * 2
    assert all(turn.cpu_s > 0 for turn in turns)


def losses_of_the_engine(job: Job) -> list[float]:
    found: list[float] = []

    class Notes:
        def emit(self, event: Event) -> None:
            if isinstance(event, StepDone):
                found.append(event.loss)

    run_job(job, Notes(), StopRequest(), lambda: 0.0, Team())
    return found


@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-5), ("bfloat16", 2e-3)])
def test_on_equal_batches_the_plain_recipe_has_the_losses_of_the_engine(
    precision: str, near: float, few: Workload, tiny: Size
) -> None:
    job = read_job(write_equal_job(few, tiny, precision, steps=4))
    plain = [step.loss for step in load_run(job).steps()]
    assert len(plain) == 4
    assert losses_of_the_engine(job) == pytest.approx(plain, rel=near)


def test_losses_stand_side_by_side_with_their_largest_difference() -> None:
    losses = {"ours": [2.0] * 10 + [1.0] * 10, "theirs": [2.0] * 15 + [1.5] * 5}
    assert list(loss_table(losses))[2:] == ["| 10 | 2.0000 | 2.0000 |", "| 20 | 1.0000 | 1.7500 |"]
    assert list(differences(losses, "theirs")) == [
        "ours: at most 1.0e+00 nats from theirs, at step 11"
    ]
