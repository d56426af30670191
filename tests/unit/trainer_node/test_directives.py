"""What attempts do when the service wants something else than training."""

import asyncio
from collections.abc import Sequence

import pytest

from services.trainer.node.lease import Cause, Directive, Failure, Result
from tests.unit.trainer_node.attempts import World

STOPS = """
    def stop(*_):
        checkpoint(5)
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
    step(5)
    time.sleep(60)
    """
TRAINS_OR_FINISHES = """
    resumed = pathlib.Path(job["resume_from"]) if job["resume_from"] else None
    if job["finish"]:
        there = sorted(path.name for path in resumed.parent.iterdir())
        emit("log", level="info", message=f"from {resumed.name} of {' '.join(there)}")
        finish()
        sys.exit()
    def stop(*_):
        checkpoint(5)
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
    evaluated(4, 0.5)
    checkpoint(4)
    step(5)
    time.sleep(60)
    """


def said(world: World) -> list[str]:
    return [event.log.message for event in world.events() if event.HasField("log")]


@pytest.mark.parametrize(
    ("directive", "cause"),
    [
        (Directive.CANCEL, Cause.CANCELLED),
        (Directive.PAUSE, Cause.PAUSED),
        (Directive.YIELD, Cause.PREEMPTED),
    ],
)
async def test_a_job_that_is_to_stop_leaves_a_checkpoint_and_says_why(
    world: World, directive: Directive, cause: Cause
) -> None:
    failure = await world.run_and_tell(directive, STOPS)
    assert failure == Failure(cause, "the engine was stopped at step 5")
    assert [checkpoint.step for checkpoint in world.leases.checkpoints] == [5]


async def test_a_lease_that_says_pause_starts_no_engine(world: World) -> None:
    world.work_dir.mkdir()
    failure = await world.run("step(1); finish()", directive=Directive.PAUSE)
    assert failure == Failure(Cause.PAUSED, "stopped before training began")
    assert not world.events()


async def test_the_checkpoint_of_a_pause_waits_for_the_blob_store(world: World) -> None:
    """It holds steps that nobody wants to do again."""
    world.blobs.away = True
    failure = await world.run_and_tell(Directive.PAUSE, STOPS, patience_s=0.5)
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.PAUSED
    assert "blob store does not answer" in failure.message


async def test_a_node_that_is_told_to_stop_does_not_wait_for_a_pause(world: World) -> None:
    world.blobs.away, world.leases.directive = True, Directive.PAUSE
    attempt = world.attempt(STOPS, patience_s=600)
    running = asyncio.create_task(attempt.run())
    while not world.events():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    attempt.stop(Cause.NODE_STOPPING)
    await asyncio.wait_for(running, 10)
    failure = world.outcome()
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.PAUSED


async def test_a_job_whose_time_is_over_finishes_with_the_best_of_its_checkpoints(
    world: World,
) -> None:
    result = await world.run_and_tell(Directive.FINISH, TRAINS_OR_FINISHES)
    assert isinstance(result, Result)
    assert [checkpoint.step for checkpoint in world.leases.checkpoints] == [4, 5]
    assert said(world) == ["from step-00000005 of step-00000004 step-00000005"]


async def test_a_lease_may_say_finish_from_the_beginning(world: World) -> None:
    kept = [
        await world.checkpoint(9, 0.7, state="nine"),
        await world.checkpoint(6, 0.25, state="six"),
        await world.checkpoint(3, 0.5, state="three"),
    ]
    result = await world.run(TRAINS_OR_FINISHES, checkpoints=kept, directive=Directive.FINISH)
    assert isinstance(result, Result)
    assert said(world) == ["from step-00000009 of step-00000006 step-00000009"]


async def test_a_best_checkpoint_that_is_damaged_is_done_without(world: World) -> None:
    kept = [
        await world.checkpoint(9, 0.7, state="nine"),
        await world.checkpoint(6, 0.25, state="6"),
    ]
    await world.damage("6")
    result = await world.run(TRAINS_OR_FINISHES, checkpoints=kept, directive=Directive.FINISH)
    assert isinstance(result, Result)
    assert world.leases.refused == [(1, 6)]
    assert said(world)[-1] == "from step-00000009 of step-00000009"


@pytest.mark.parametrize("steps", [(), (9,), (0,)], ids=["none", "damaged", "of no step"])
async def test_a_job_without_a_step_has_nothing_to_finish_with(
    world: World, steps: Sequence[int]
) -> None:
    kept = [await world.checkpoint(step, state=f"state {step}") for step in steps]
    await world.damage("state 9")
    failure = await world.run("step(1); finish()", checkpoints=kept, directive=Directive.FINISH)
    assert failure == Failure(Cause.DEADLINE, "no step of it was kept")


async def test_an_engine_that_is_killed_before_it_can_stop_is_finished_all_the_same(
    world: World,
) -> None:
    program = TRAINS_OR_FINISHES.replace("checkpoint(5)", "time.sleep(60)")
    result = await world.run_and_tell(Directive.FINISH, program, grace_s=0.2)
    assert isinstance(result, Result)
    assert said(world) == ["from step-00000004 of step-00000004"]


async def test_another_backend_can_not_finish_and_its_job_says_so(world: World) -> None:
    failure = await world.run_and_tell(Directive.FINISH, STOPS, backend="unsloth")
    assert failure == Failure(Cause.DEADLINE, "unsloth can not finish before its last step")


async def test_a_result_that_comes_before_the_stop_counts(world: World) -> None:
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN); step(9); time.sleep(0.5); finish()"
    assert isinstance(await world.run_and_tell(Directive.FINISH, program), Result)


async def test_a_job_cancelled_while_it_finishes_is_cancelled(world: World) -> None:
    program = "step(9); time.sleep(60)"
    kept = [await world.checkpoint(9, state="nine")]
    failure = await world.run_and_cancel(program, checkpoints=kept, directive=Directive.FINISH)
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.CANCELLED


async def test_checkpoints_of_the_job_that_is_retried_are_fetched_from_it(world: World) -> None:
    theirs = await world.checkpoint(9, job_uid="ffff", state="nine")
    program = """
        assert (pathlib.Path(job["resume_from"]) / "state").read_text() == "nine"
        step(10)
        checkpoint(10)
        finish()
        """
    assert isinstance(await world.run(program, checkpoints=[theirs]), Result)
    (own,) = world.leases.checkpoints
    assert (own.step, own.job_uid) == (10, "")
    assert await world.blobs.owned_by("tuning-jobs/0a1b/2-10").exists(own.manifest_digest)
