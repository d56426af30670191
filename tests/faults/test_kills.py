"""kill -9 in the middle of a job: it goes on, and its result has not changed by a bit."""

import random
import secrets
import time

import pytest

from tests.faults.world import STEPS, VICTIMS, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.fault("R1")]

KILLS = {8: "engine", 20: "nats", 32: "node", 45: "trainer"}
"""Who dies once a watcher has seen this step."""
MOMENTS = 4


def test_engine_bus_node_and_control_die_and_the_job_does_not(world: World) -> None:
    assert set(KILLS.values()) == set(VICTIMS)
    job = world.create("disturbed")
    due = dict(KILLS)
    seen = []
    for event in world.watch(job):
        seen.append(event)
        if event.HasField("step") and due and event.step.step >= min(due):
            world.kill(due.pop(min(due)))
    assert not due
    assert world.client.jobs.get(job.name).attempt >= 3, "the engine and the node cost one each"
    world.assert_unharmed(job, seen)


@pytest.mark.long
@pytest.mark.parametrize("moment", range(MOMENTS))
@pytest.mark.parametrize("victim", VICTIMS)
def test_death_at_any_moment(world: World, victim: str, moment: int) -> None:
    seed = secrets.randbelow(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    step, delay_s = chance.randrange(0, STEPS), chance.uniform(0, 0.5)
    job = world.create(f"{victim}-{moment}")
    seen, killed = [], False
    for event in world.watch(job):
        seen.append(event)
        reached = event.HasField("step") and event.step.step >= step
        if not killed and (reached or step == 0):
            time.sleep(delay_s)
            world.kill(victim)
            killed = True
    assert killed
    world.assert_unharmed(job, seen)
