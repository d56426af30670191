"""When an engine counts as hanging, and what becomes of one that does."""

import time
from typing import Any

import pytest

from services.trainer.node.config import NodeConfig
from services.trainer.node.lease import Cause, Failure, Result
from services.trainer.node.watchdog import Patience, Watchdog
from tests.unit.trainer_node.attempts import World

PATIENCE = Patience(steps=20, least_s=60, other_s=600, looks_every_s=1)
SHORT = Patience(steps=20, least_s=0.3, other_s=20, looks_every_s=0.05)


def step(seconds: float) -> dict[str, Any]:
    return {"type": "step", "step_seconds": seconds}


def alive(doing: str) -> dict[str, Any]:
    return {"type": "alive", "doing": doing}


def limit_after(*events: dict[str, Any]) -> float:
    dog = Watchdog(PATIENCE)
    for event in events:
        dog.heard(event)
    return dog.limit_s


def test_a_step_may_take_many_times_the_median_step() -> None:
    assert limit_after(step(4), step(10), step(90)) == 20 * 10
    assert limit_after(*[step(1)] * 101, *[step(10)] * 51) == 20 * 10, "the newest count"
    assert limit_after(step(0.001)) == PATIENCE.least_s


def test_a_start_and_a_first_step_may_take_long() -> None:
    assert limit_after() == PATIENCE.other_s
    assert limit_after({"type": "started"}, alive("step")) == PATIENCE.other_s


def test_another_backend_tells_less_and_may_be_silent_for_longer() -> None:
    config = NodeConfig(blobs_url="", stall_least_s=30, stall_other_s=300, stall_tool_s=9000)
    assert config.patience("builtin") == Patience(20, 30, 300)
    assert config.patience("unsloth") == Patience(20, 9000, 9000)


@pytest.mark.parametrize(
    ("doing", "end"),
    [("evaluation", "eval"), ("samples", "samples"), ("checkpoint", "checkpoint")],
)
def test_what_is_no_step_may_take_long_until_its_end(doing: str, end: str) -> None:
    assert limit_after(step(1), alive(doing)) == PATIENCE.other_s
    assert limit_after(step(1), alive(doing), {"type": "log"}) == PATIENCE.other_s
    assert limit_after(step(1), alive(doing), alive("step")) == PATIENCE.least_s
    assert limit_after(step(1), alive(doing), {"type": end}) == PATIENCE.least_s


def test_whatever_is_heard_ends_the_silence() -> None:
    dog = Watchdog(PATIENCE)
    dog.heard(step(1))
    for _ in range(100):
        dog.passed(1)
        dog.heard(alive("step"))
    assert not dog.is_hanging
    for _ in range(61):
        dog.passed(1)
    assert dog.is_hanging


def test_time_that_the_node_did_not_have_itself_does_not_count() -> None:
    dog = Watchdog(PATIENCE)
    dog.heard(step(1))
    dog.passed(3600)
    assert not dog.is_hanging


async def test_an_engine_that_hangs_in_a_step_is_killed_in_time_and_says_where(
    world: World,
) -> None:
    program = """
        import faulthandler
        faulthandler.register(signal.SIGUSR2)
        def stuck():
            time.sleep(60)
        checkpoint(1)
        step(1)
        stuck()
        """
    failure = await world.run(program, hangs_after=SHORT, grace_s=20)
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.NO_PROGRESS
    assert "s after step 1" in failure.message
    assert "in stuck" in failure.message
    assert [checkpoint.step for checkpoint in world.leases.checkpoints] == [1]


async def test_an_engine_that_stands_still_is_killed_too(world: World) -> None:
    program = "step(1); os.kill(os.getpid(), signal.SIGSTOP)"
    began_s = time.monotonic()
    failure = await world.run(program, hangs_after=SHORT)
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.NO_PROGRESS
    assert time.monotonic() - began_s < 5


async def test_an_engine_that_never_starts_is_killed_after_a_limit_of_its_own(
    world: World,
) -> None:
    patience = Patience(steps=20, least_s=0.01, other_s=0.5, looks_every_s=0.05)
    failure = await world.run("time.sleep(60)", hangs_after=patience)
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.NO_PROGRESS
    assert "after step 0" in failure.message


async def test_a_slow_evaluation_that_tells_of_itself_goes_on(world: World) -> None:
    program = """
        step(1)
        emit("alive", doing="evaluation")
        time.sleep(0.8)
        evaluated(1, 0.5)
        for _ in range(5):
            time.sleep(0.2)
            emit("alive", doing="step")
        finish()
        """
    assert isinstance(await world.run(program, hangs_after=SHORT), Result)
    kinds = [event.WhichOneof("event") for event in world.events()]
    assert kinds == ["step", "evaluation"], "signs of life are the node's alone"
