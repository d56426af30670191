"""How many jobs need a node, as an autoscaler reads it from the bus."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from services.common.bus_memory import MemoryBus
from services.trainer.control.adapters.demand import LAG, Demand
from tests.contract.trainer_control.world import World


@pytest.fixture
async def bus(world: World) -> AsyncGenerator[MemoryBus]:
    """A bus of its own, on which only these tests' counts are shown, and often."""
    bus = MemoryBus()
    showing = asyncio.create_task(Demand(world.store, bus, poll_s=0.01).show())
    yield bus
    showing.cancel()
    await asyncio.wait([showing])


async def until_shown(bus: MemoryBus, count: int) -> None:
    async with asyncio.timeout(5):
        while bus.lags.get(LAG) != count:
            await asyncio.sleep(0.01)


async def test_jobs_that_wait_or_run_need_a_node(world: World, bus: MemoryBus) -> None:
    await until_shown(bus, 0)
    jobs = [await world.create() for _ in range(3)]
    await until_shown(bus, 3)

    lease = await world.claim()
    assert lease is not None
    await world.cancel(jobs[2].name)
    await until_shown(bus, 2)

    await world.cancel(lease.job.name)
    await world.fail(lease.job, "CANCELLED")
    await until_shown(bus, 1)
