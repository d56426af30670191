"""Jobs that several devices train together. The node believes in GPUs; its engines find none, and
train on the CPU."""

import pytest

from anneal.trainer.v1.tuning_job_pb2 import TuningJob
from tests.contract.trainer_node.world import TRAINING, Node, World, assert_no_gap, steps_of


def kill_one_of(node: Node, rank: str) -> None:
    launcher = node.engine()
    assert launcher is not None
    (engine,) = (child for child in launcher.children() if child.environ()["RANK"] == rank)
    engine.kill()


async def test_a_killed_process_of_two_costs_the_steps_since_their_checkpoint(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    async with world.node() as node:
        job = await world.create("first", device_count=2)
        await world.reached(job, "checkpoint", 10)
        kill_one_of(node, rank="1")
        events = await world.history(job)
    ended = await world.get(job)
    assert (ended.state, ended.attempt) == (TuningJob.STATE_SUCCEEDED, 2)
    assert_no_gap(events)
    assert sorted(set(steps_of(events))) == list(range(1, TRAINING["max_steps"] + 1))
    causes = "".join(event.state_change.cause for event in events)
    assert "process 1 of the run was ended by SIGKILL" in causes
    (certificate,) = ended.resume_certificates
    assert (certificate.exact, certificate.max_loss_difference) == (True, 0)
