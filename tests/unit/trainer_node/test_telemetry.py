"""Events reach the stream in order and once, whatever the bus does."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from anneal.trainer.v1 import tuning_job_pb2 as pb
from services.common.bus import BusUnavailable, Message
from services.common.bus_memory import MemoryBus
from services.common.testing.clock import FakeClock
from services.trainer.node import retrying
from services.trainer.node.telemetry import Telemetry

JOB = "projects/default/tuningJobs/first"


class UnreliableBus(MemoryBus):
    """Away for some publishes, and then deaf for some: it stores but its answer is lost."""

    def __init__(self, away: int = 0, deaf: int = 0) -> None:
        super().__init__()
        self.away = away
        self.deaf = deaf
        self.may_publish = asyncio.Event()
        self.may_publish.set()

    async def publish(self, subject: str, payload: bytes, message_id: str) -> None:
        await self.may_publish.wait()
        if self.away > 0:
            self.away -= 1
            raise BusUnavailable
        await super().publish(subject, payload, message_id)
        if self.deaf > 0:
            self.deaf -= 1
            raise BusUnavailable


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "_FIRST_PAUSE_S", 0.001)


@asynccontextmanager
async def publishing(bus: MemoryBus) -> AsyncGenerator[Telemetry]:
    telemetry = Telemetry(bus, FakeClock(), JOB, 3)
    task = asyncio.create_task(telemetry.publish_all())
    try:
        yield telemetry
    finally:
        task.cancel()
        await asyncio.wait({task})


def log_line(text: str) -> pb.TuningJobEvent:
    return pb.TuningJobEvent(log=pb.LogLine(message=text))


async def stream_of(bus: MemoryBus, count: int) -> list[Message]:
    """The first messages on the stream; that there are more is a failure."""
    messages: list[Message] = []
    async with bus.subscribe("reader", ["anneal.>"]) as deliveries:
        for _ in range(count):
            messages.append((await asyncio.wait_for(anext(deliveries), 1)).message)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(deliveries), 0.05)
    return messages


async def test_events_are_numbered_and_arrive_in_order() -> None:
    bus = UnreliableBus()
    async with publishing(bus) as telemetry:
        for text in ("one", "two", "three"):
            telemetry.add(log_line(text))
        await telemetry.stored()
    assert telemetry.count == 3
    messages = await stream_of(bus, 3)
    events = [pb.TuningJobEvent.FromString(message.payload) for message in messages]
    assert [event.log.message for event in events] == ["one", "two", "three"]
    assert [event.attempt_sequence for event in events] == [1, 2, 3]
    assert {event.attempt for event in events} == {3}
    assert {message.subject for message in messages} == {"anneal.jobs.default.first.events"}
    assert [message.message_id for message in messages] == [f"{JOB}:3:{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("trouble", [{"away": 3}, {"deaf": 2}, {"away": 2, "deaf": 2}])
async def test_an_outage_neither_loses_nor_doubles_nor_swaps(trouble: dict[str, int]) -> None:
    bus = UnreliableBus(**trouble)
    async with publishing(bus) as telemetry:
        for text in ("one", "two", "three"):
            telemetry.add(log_line(text))
        await telemetry.stored()
    messages = await stream_of(bus, 3)
    assert [message.message_id for message in messages] == [f"{JOB}:3:{n}" for n in (1, 2, 3)]


async def test_stored_waits_for_what_was_added_before_and_for_nothing_else() -> None:
    bus = UnreliableBus()
    bus.may_publish.clear()
    async with publishing(bus) as telemetry:
        telemetry.add(log_line("one"))
        stored = asyncio.create_task(telemetry.stored())
        await asyncio.sleep(0.01)
        assert not stored.done()
        telemetry.add(log_line("two"))
        bus.may_publish.set()
        await asyncio.sleep(0)
        bus.may_publish.clear()  # "two" stays on the way for ever
        await asyncio.wait_for(stored, 1)


async def test_nothing_added_is_stored_at_once() -> None:
    async with publishing(UnreliableBus()) as telemetry:
        await asyncio.wait_for(telemetry.stored(), 1)
