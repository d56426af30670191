"""The node's agent: how many jobs it works on, and on what."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from services.common.faults import Unavailable
from services.trainer.node.agent import Agent
from services.trainer.node.attempt import Attempt
from services.trainer.node.engines import WarmEngines
from services.trainer.node.lease import Cause, Lease, LocalBase
from services.trainer.node.room import Room


def lease(name: str, device_count: int = 1) -> Lease:
    return Lease(name, name, 1, 30, "", LocalBase(""), 0, {}, {}, device_count=device_count)


class Queue:
    """Gives its leases one after the other, and then lets claims wait."""

    def __init__(self, *leases: Lease) -> None:
        self.leases = list(leases)
        self.offered: list[int] = []
        self.unheard: Lease | Exception | None = None
        self.asked = asyncio.Event()

    async def claim(self, wait_s: float, free_devices: int) -> Lease | None:
        self.offered.append(free_devices)
        self.asked.set()
        fitting = [one for one in self.leases if one.device_count <= free_devices]
        if not fitting:
            await asyncio.sleep(60 if self.unheard else 0.01)
            return None
        self.leases.remove(fitting[0])
        return fitting[0]

    async def granted(self) -> Lease | None:
        if isinstance(self.unheard, Exception):
            raise self.unheard
        return self.unheard


class Work:
    """An attempt that lasts until it is told to end."""

    def __init__(self, lease: Lease, gpus: Sequence[str]) -> None:
        self.lease, self.gpus = lease, tuple(gpus)
        self.over = asyncio.Event()
        self.cause: Cause | None = None

    def stop(self, cause: Cause) -> None:
        self.cause = cause
        self.over.set()

    async def run(self) -> None:
        await self.over.wait()


class Host:
    """A running agent and its work."""

    def __init__(self, queue: Queue, room: Room) -> None:
        self.work: dict[str, Work] = {}
        leases = cast(Any, queue)
        self.agent = Agent(leases, self._begin, 1.0, room, WarmEngines((), 1, 0))
        self.life = asyncio.create_task(self.agent.run())

    def _begin(self, lease: Lease, gpus: Sequence[str]) -> Attempt:
        self.work[lease.job] = Work(lease, gpus)
        return cast(Attempt, self.work[lease.job])

    async def until_it_works_on(self, *names: str) -> None:
        async with asyncio.timeout(5):
            while {one for one, work in self.work.items() if not work.over.is_set()} != set(names):
                await asyncio.sleep(0.005)

    async def stopped(self) -> None:
        self.agent.stop()
        await asyncio.wait_for(self.life, 5)


async def test_one_place_means_one_job_at_a_time() -> None:
    host = Host(Queue(lease("a"), lease("b")), Room(1))

    await host.until_it_works_on("a")
    await asyncio.sleep(0.05)
    assert list(host.work) == ["a"]
    host.work["a"].over.set()
    await host.until_it_works_on("b")

    await host.stopped()


async def test_jobs_run_side_by_side_where_there_are_places() -> None:
    host = Host(Queue(lease("a"), lease("b"), lease("c")), Room(2))

    await host.until_it_works_on("a", "b")

    await host.stopped()
    assert {work.cause for work in host.work.values()} == {Cause.NODE_STOPPING}


async def test_each_job_has_gpus_of_its_own_and_gives_them_back() -> None:
    queue = Queue(lease("a", 2), lease("b", 1), lease("c", 2))
    host = Host(queue, Room(4, ("0", "1", "2", "3")))

    await host.until_it_works_on("a", "b")
    assert (host.work["a"].gpus, host.work["b"].gpus) == (("0", "1"), ("2",))
    assert queue.offered[-1] == 1
    host.work["a"].over.set()
    await host.until_it_works_on("b", "c")
    assert host.work["c"].gpus == ("3", "0")

    await host.stopped()


async def test_an_agent_hands_back_what_it_was_granted_while_it_stopped() -> None:
    queue = Queue()
    queue.unheard = lease("a")
    host = Host(queue, Room(1))
    await queue.asked.wait()

    await host.stopped()

    assert host.work["a"].cause is Cause.NODE_STOPPING


async def test_an_agent_stops_also_if_nobody_says_what_it_was_granted() -> None:
    queue = Queue()
    queue.unheard = Unavailable("TRAINER_DOWN", "away")
    host = Host(queue, Room(1))
    await queue.asked.wait()

    await host.stopped()

    assert host.work == {}


async def test_a_stopped_agent_waits_for_what_it_has_and_takes_no_more() -> None:
    queue = Queue(lease("a"))
    host = Host(queue, Room(2))
    await host.until_it_works_on("a")

    await host.stopped()

    queue.leases.append(lease("b"))
    assert list(host.work) == ["a"]
