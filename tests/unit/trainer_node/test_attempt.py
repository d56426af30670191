"""Attempts with engines of a few lines, from the lease to what the service is told."""

import asyncio
import json
from pathlib import Path

import pytest

from anneal.trainer.v1 import tuning_job_pb2 as pb
from services.common.faults import Unavailable
from services.common.manifest import Manifest
from services.trainer.node.lease import (
    Cause,
    Directive,
    Failure,
    Result,
    StoredCheckpoint,
)
from tests.unit.trainer_node.attempts import UID, World


async def test_a_finished_engine_makes_a_result_of_its_artifacts(world: World) -> None:
    result = await world.run("step(1); finish()")
    assert isinstance(result, Result)
    manifest = Manifest.parse(await world.blobs.read(result.manifest_digest))
    assert [file.path for file in manifest.files] == ["adapter"]
    assert result.metrics == {"steps": 9, "training_loss": 1, "best_loss": 1}


async def test_an_engine_begins_smaller_once_for_each_time_memory_ran_out_since(
    world: World,
) -> None:
    tell = 'emit("failed", kind="error", message=str(job["reliefs"]))'
    anew = await world.run(tell, out_of_memory_attempts=(1, 2, 3))
    world.leases.told.clear()
    checkpoint = StoredCheckpoint(2, 5, await world.store(state="5"), 0)
    owned = world.blobs.owned_by(f"tuning-jobs/{UID}/2-5")
    for file in Manifest.parse(await world.blobs.read(checkpoint.manifest_digest)).files:
        await owned.put(await world.blobs.read(file.sha256))
    await owned.put(await world.blobs.read(checkpoint.manifest_digest))

    on = await world.run(tell, checkpoints=[checkpoint], out_of_memory_attempts=(1, 2, 3))

    assert isinstance(anew, Failure)
    assert isinstance(on, Failure)
    assert (anew.message.split()[0], on.message.split()[0]) == ("3", "2")


async def test_artifacts_that_are_whole_count_however_the_engine_leaves_then(world: World) -> None:
    assert isinstance(await world.run("finish(); os.kill(os.getpid(), signal.SIGSEGV)"), Result)


async def test_an_engine_that_does_not_leave_after_its_last_word_is_killed(world: World) -> None:
    program = "finish(); os.close(1); time.sleep(60)"
    assert isinstance(await world.run(program, grace_s=0.1), Result)


async def test_a_checkpoint_is_reported_when_all_before_it_is_stored(world: World) -> None:
    await world.run("step(1); step(2); checkpoint(2); step(3); finish()")
    (reported,) = world.leases.checkpoints
    owned = world.blobs.owned_by(f"tuning-jobs/{UID}/2-2")
    manifest = Manifest.parse(await owned.read(reported.manifest_digest))
    assert await owned.read(manifest.files[0].sha256) == b"2"
    assert not await world.blobs.exists(reported.manifest_digest)
    numbers = [event.attempt_sequence for event in world.events()]
    assert numbers == [1, 2, 3, 4]
    (told,) = [e.checkpoint for e in world.events() if e.HasField("checkpoint")]
    assert (told.step, told.manifest_digest) == (2, reported.manifest_digest)


async def test_an_engine_that_dies_is_quoted_and_its_checkpoint_kept(world: World) -> None:
    failure = await world.run(
        """
        step(1)
        checkpoint(1)
        print("something cracked", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.ENGINE_KILLED
    assert "SIGKILL at step 1" in failure.message
    assert failure.message.endswith("\nsomething cracked")
    assert [checkpoint.step for checkpoint in world.leases.checkpoints] == [1]


async def test_what_the_engine_says_of_its_failure_is_told(world: World) -> None:
    failure = await world.run("emit('failed', kind='out_of_memory', message='9 GB'); sys.exit(4)")
    assert failure == Failure(Cause.OUT_OF_MEMORY, "9 GB")


async def test_a_training_that_diverged_is_told_as_such(world: World) -> None:
    failure = await world.run("emit('failed', kind='diverged', message='nan'); sys.exit(6)")
    assert failure == Failure(Cause.DIVERGED, "nan")


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "{}",
        '{"type": "step"}',
        '{"type": "dance"}',
        '{"type": "failed", "kind": "?"}',
        '{"type": "samples", "time": 0, "step": 1, "samples": ["?"]}',
    ],
)
async def test_an_engine_that_speaks_another_language_is_ended(world: World, line: str) -> None:
    failure = await world.run(f"print({line!r}, flush=True); time.sleep(60)")
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.ENGINE_ERROR
    assert line in failure.message.replace("'", '"')


async def test_training_goes_on_from_the_newest_checkpoint(world: World) -> None:
    newest, older = await world.checkpoint(9, state="nine"), await world.checkpoint(6, state="six")
    program = """
        assert (pathlib.Path(job["resume_from"]) / "state").read_text() == "nine"
        finish()
        """
    assert isinstance(await world.run(program, checkpoints=[newest, older]), Result)
    assert not world.leases.refused
    assert not world.events()


async def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(world: World) -> None:
    """Damaged as the engine sees it, as the blob store does, and so much that it is gone."""
    refused = await world.checkpoint(9, state="from another job")
    damaged = await world.checkpoint(8, state="eight")
    gone = StoredCheckpoint(1, 7, "ab" * 32, 0)
    whole = await world.checkpoint(6, state="six")
    await world.damage("eight")
    result = await world.run(
        """
        state = (pathlib.Path(job["resume_from"]) / "state").read_text()
        if state != "six":
            emit("failed", kind="error", message=f"its state is {state}")
            sys.exit(5)
        step(7)
        finish()
        """,
        checkpoints=[refused, damaged, gone, whole],
    )
    assert isinstance(result, Result)
    assert world.leases.refused == [(1, 9), (1, 8), (1, 7)]
    *warnings, step = world.events()
    assert step.step.step == 7
    assert {event.log.level for event in warnings} == {pb.LogLine.LEVEL_WARNING}
    of_9, of_8, of_7 = (event.log.message for event in warnings)
    assert of_9 == "the checkpoint of step 9 is of no use: its state is from another job"
    assert of_8.startswith("the checkpoint of step 8 is of no use: the bytes of blob ")
    assert of_7.startswith("the checkpoint of step 7 is of no use: no blob abab")


async def test_without_a_checkpoint_of_use_training_begins_anew(world: World) -> None:
    result = await world.run(
        """
        if job["resume_from"] is not None:
            emit("failed", kind="error", message="its state is unreadable")
            sys.exit(5)
        step(1)
        finish()
        """,
        checkpoints=[await world.checkpoint(9, state="?"), await world.checkpoint(6, state="?")],
    )
    assert isinstance(result, Result)
    assert world.leases.refused == [(1, 9), (1, 6)]
    assert world.events()[2].log.message == "no checkpoint is left: training begins anew"


async def test_a_refusal_is_told_before_anything_is_trained(world: World) -> None:
    world.leases.trouble = [Unavailable("TRAINER_DOWN", "nobody answers")]
    program = "step(1); checkpoint(1); finish()"
    refused = [StoredCheckpoint(1, 9, "ab" * 32, 0)]
    assert isinstance(await world.run(program, checkpoints=refused), Result)
    assert world.leases.refused == [(1, 9)]
    assert [checkpoint.step for checkpoint in world.leases.checkpoints] == [1]


async def test_a_stop_is_no_reason_to_refuse_a_checkpoint(world: World) -> None:
    program = """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        step(1)
        time.sleep(60)
        """
    kept = [await world.checkpoint(9, state="nine")]
    failure = await world.run_and_cancel(program, checkpoints=kept)
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.CANCELLED
    assert not world.leases.refused


async def test_a_checkpoint_has_the_held_out_loss_of_its_step(world: World) -> None:
    await world.run("evaluated(1, 0.75); checkpoint(1); checkpoint(2); finish()")
    losses = {one.step: one.validation_loss for one in world.leases.checkpoints}
    assert losses == {1: 0.75, 2: None}
    assert {one.attempt for one in world.leases.checkpoints} == {2}


async def test_a_checkpoint_told_twice_is_stored_once(world: World) -> None:
    world.blobs.away = True  # the first is still on its way when the second is told
    program = "checkpoint(1); time.sleep(0.2); checkpoint(1); finish()"
    running = asyncio.create_task(world.attempt(program).run())
    await asyncio.sleep(0.5)
    world.blobs.away = False
    await asyncio.wait_for(running, 10)
    assert isinstance(world.outcome(), Result)
    assert [checkpoint.step for checkpoint in world.leases.checkpoints] == [1]


async def test_an_engine_that_turns_to_nonsense_has_its_checkpoint_kept(world: World) -> None:
    world.blobs.away = True
    program = "step(1); checkpoint(1); print('nonsense', flush=True); time.sleep(60)"
    running = asyncio.create_task(world.attempt(program).run())
    await asyncio.sleep(0.5)
    assert not world.leases.told
    world.blobs.away = False
    await asyncio.wait_for(running, 10)
    failure = world.outcome()
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.ENGINE_ERROR
    assert [checkpoint.step for checkpoint in world.leases.checkpoints] == [1]


async def test_an_earlier_result_is_laid_out_for_the_engine_to_go_on_from(world: World) -> None:
    start = await world.store(adapter="weights")
    program = """
        assert (pathlib.Path(job["start_from"]) / "adapter").read_text() == "weights"
        assert job["resume_from"] is None
        finish()
        """
    assert isinstance(await world.run(program, start=start), Result)


async def test_without_an_earlier_result_the_engine_begins_with_fresh_parameters(
    world: World,
) -> None:
    assert isinstance(await world.run("assert job['start_from'] is None; finish()"), Result)


async def test_an_earlier_result_that_is_gone_ends_the_attempt(world: World) -> None:
    failure = await world.run("finish()", start="ab" * 32)
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.STORAGE
    assert "abab" in failure.message


async def test_a_cancelled_job_stops_its_engine(world: World) -> None:
    failure = await world.run_and_cancel(
        """
        def stop(*_):
            checkpoint(1)
            sys.exit(75)
        signal.signal(signal.SIGTERM, stop)
        step(1)
        time.sleep(60)
        """
    )
    assert failure == Failure(Cause.CANCELLED, "the engine was stopped at step 1")
    assert [checkpoint.step for checkpoint in world.leases.checkpoints] == [1]


async def test_an_engine_that_ignores_the_request_to_stop_is_killed(world: World) -> None:
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN); step(1); time.sleep(60)"
    failure = await world.run_and_cancel(program, grace_s=0.2)
    assert failure == Failure(Cause.CANCELLED, "the engine was stopped at step 1")


async def test_a_stop_before_the_engine_is_there_reaches_it(world: World) -> None:
    """However early or late the stop comes, no engine runs on."""
    for pause_ms in range(0, 60, 2):
        attempt = world.attempt("time.sleep(60)")
        running = asyncio.create_task(attempt.run())
        await asyncio.sleep(pause_ms / 1000)
        attempt.stop(Cause.NODE_STOPPING)
        await asyncio.wait_for(running, 5)
    causes = {outcome.cause for outcome, _ in world.leases.told if isinstance(outcome, Failure)}
    assert (len(world.leases.told), causes) == (30, {Cause.NODE_STOPPING})


async def test_a_lost_lease_ends_the_engine_and_tells_nobody(world: World) -> None:
    attempt = world.attempt("step(1); time.sleep(60)")
    running = asyncio.create_task(attempt.run())
    await asyncio.sleep(0.1)
    world.leases.lost = True
    await asyncio.wait_for(running, 5)
    assert not world.leases.told


async def test_a_lease_lost_with_a_checkpoint_ends_it_too(world: World) -> None:
    world.leases.lost = True
    await asyncio.wait_for(world.attempt("checkpoint(1); time.sleep(60)").run(), 5)
    assert not world.leases.told


async def test_a_service_that_is_away_is_told_when_it_is_back(world: World) -> None:
    world.leases.trouble = [Unavailable("TRAINER_DOWN", "nobody answers")] * 3
    assert isinstance(await world.run("checkpoint(1); finish()"), Result)
    assert len(world.leases.checkpoints) == 1


async def test_a_blob_store_that_is_away_for_a_while_costs_nothing(world: World) -> None:
    world.blobs.away = True
    running = asyncio.create_task(world.attempt("checkpoint(1); finish()").run())
    await asyncio.sleep(0.5)
    assert not world.leases.checkpoints
    world.blobs.away = False
    await asyncio.wait_for(running, 10)
    assert isinstance(world.outcome(), Result)
    assert len(world.leases.checkpoints) == 1


async def test_a_checkpoint_that_the_engine_drops_while_it_waits_is_stored(world: World) -> None:
    world.blobs.away = True
    program = """
        checkpoint(1)
        time.sleep(0.3)
        import shutil
        shutil.rmtree(work / "checkpoints" / "step-1", ignore_errors=True)
        finish()
        """
    running = asyncio.create_task(world.attempt(program).run())
    await asyncio.sleep(1)
    world.blobs.away = False
    await asyncio.wait_for(running, 10)
    assert isinstance(world.outcome(), Result)
    assert [checkpoint.step for checkpoint in world.leases.checkpoints] == [1]


async def test_a_checkpoint_that_was_dropped_before_the_node_heard_of_it_is_passed_over(
    world: World,
) -> None:
    program = """
        emit("checkpoint", step=1, path=str(work / "checkpoints" / "step-1"), digest="")
        checkpoint(2)
        finish()
        """
    assert isinstance(await world.run(program), Result)
    assert [checkpoint.step for checkpoint in world.leases.checkpoints] == [2]


async def test_answers_resumptions_and_reliefs_are_told(world: World) -> None:
    await world.run(
        """
        emit("resumed", step=4, checkpoint_digest="ab", restored_digest="ab", exact=True,
             environment=[])
        emit("samples", step=5, samples=[{"prompt": "late?", "expected": "no", "output": "yes"}])
        emit("relieved", step=6, micro_batch_tokens=20, recompute=False, message="less")
        finish()
        """
    )
    kinds = [event.WhichOneof("event") for event in world.events()]
    assert kinds == ["resumed", "samples", "relieved"]


async def test_a_blob_store_that_stays_away_ends_the_attempt(world: World) -> None:
    world.blobs.away = True
    failure = await world.run("checkpoint(1); time.sleep(60)", patience_s=0.3)
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.STORAGE
    assert "blob store does not answer" in failure.message


async def test_a_cancelled_job_does_not_wait_for_a_blob_store(world: World) -> None:
    world.blobs.away, world.leases.directive = True, Directive.CANCEL
    failure = await world.run("checkpoint(1); time.sleep(60)", patience_s=600)
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.CANCELLED


async def test_a_dataset_that_is_gone_is_a_fault_of_storage(world: World) -> None:
    world._dataset = "cd" * 32
    failure = await world.run("finish()")
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.STORAGE
    assert "cd" * 32 in failure.message


async def test_the_engine_is_given_what_the_lease_names(world: World) -> None:
    failure = await world.run(
        """
        paths = {key: str(job[key]) for key in ("base_model_dir", "dataset_file", "work_dir")}
        content = pathlib.Path(job["dataset_file"]).read_text()
        emit("failed", kind="invalid_job", message=json.dumps([job["threads"], content, paths]))
        """
    )
    assert isinstance(failure, Failure)
    threads, content, paths = json.loads(failure.message)
    assert (threads, content) == (1, "examples")
    assert Path(paths["base_model_dir"]).is_dir()
    assert Path(paths["work_dir"]).parent == world.work_dir
