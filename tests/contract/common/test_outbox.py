"""Events commit with their change, and reach the stream exactly once whatever breaks."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.common.bus import Bus, Message
from services.common.bus_memory import MemoryBus
from services.common.bus_nats import NatsBus
from services.common.outbox import Relay
from services.common.retention import Retention
from services.common.store import Store, open_engine
from services.common.testing.nats import NatsServer
from services.common.testing.postgres import Postgres
from tests.contract.common.notes import Row, Tables, tables


async def decide(store: Store[Tables], number: int) -> None:
    async with store.writing() as db:
        await db.add_note(f"note {number:04}")
        await db.outbox.add(f"note:{number}", "anneal.notes", str(number).encode())


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncGenerator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    yield task
    task.cancel()
    await asyncio.wait([task])


async def received(bus: Bus, count: int, durable: str = "reader") -> list[Message]:
    """The next `count` messages, and then none for a moment."""
    messages: list[Message] = []
    async with bus.subscribe(durable, ["anneal.>"]) as deliveries:
        async with asyncio.timeout(20):
            while len(messages) < count:
                delivery = await anext(deliveries)
                messages.append(delivery.message)
                await delivery.ack()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                messages.append((await anext(deliveries)).message)
    return messages


async def eventually(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_an_event_is_published_if_and_only_if_its_change_commits(store: Store[Tables]):
    bus = MemoryBus()

    async def decide_and_fail() -> None:
        async with store.writing() as db:
            await db.outbox.add("note:0", "anneal.notes", b"0")
            raise ValueError

    with pytest.raises(ValueError):
        await decide_and_fail()
    async with in_background(Relay(store, bus).run()):
        await decide(store, 1)
        messages = await received(bus, 1)

    assert messages == [Message("anneal.notes", b"1", "note:1")]


async def test_events_arrive_in_the_order_they_were_decided(store: Store[Tables]):
    bus = MemoryBus()
    for number in range(150):
        await decide(store, number)

    async with in_background(Relay(store, bus).run()):
        messages = await received(bus, 150)

    assert [int(message.payload) for message in messages] == list(range(150))


async def test_a_commit_wakes_the_relay_at_once(store: Store[Tables]):
    bus = MemoryBus()
    async with in_background(Relay(store, bus, poll_s=30).run()):
        await asyncio.sleep(0.1)
        await decide(store, 1)
        async with asyncio.timeout(2):
            await received(bus, 1)


async def test_commits_of_another_process_are_found_by_polling(
    store: Store[Tables], database_url: str
):
    other_process = Store(open_engine(database_url), tables)
    bus = MemoryBus()
    async with in_background(Relay(store, bus, poll_s=0.1).run()):
        await asyncio.sleep(0.2)
        await decide(other_process, 1)
        await received(bus, 1)
    await other_process.close()


async def test_the_same_event_added_twice_is_published_once(store: Store[Tables]):
    bus = MemoryBus()
    async with store.writing() as db:
        await db.outbox.add("note:1", "anneal.notes", b"first")
        await db.outbox.add("note:1", "anneal.notes", b"again")

    async with in_background(Relay(store, bus).run()):
        assert [message.payload for message in await received(bus, 1)] == [b"first"]


@pytest.mark.parametrize(
    ("subject", "size"),
    [("anneal.*", 1), ("anneal.a b", 1), ("", 1), ("anneal.x\r\nPUB y", 1), ("anneal.ok", 600_000)],
)
async def test_what_could_never_be_published_is_refused_before_it_commits(
    store: Store[Tables], subject: str, size: int
):
    async with store.writing() as db:
        with pytest.raises(ValueError):
            await db.outbox.add("m", subject, b"x" * size)


async def test_published_events_are_deleted_after_their_retention(store: Store[Tables]):
    bus = MemoryBus()
    await decide(store, 1)
    async with in_background(Relay(store, bus).run()):
        await received(bus, 1)

    no_time = Retention(published=Retention().published * 0)
    async with in_background(Relay(store, bus, retention=no_time).run()):

        async def gone() -> bool:
            async with store.reading() as db:
                return await db.events() == 0

        await eventually(gone)


async def test_what_was_published_is_published_again_to_a_bus_that_lost_it(store: Store[Tables]):
    """As docs/operations.md has an operator do after a restore."""
    for number in range(3):
        await decide(store, number)
    async with in_background(Relay(store, bus := MemoryBus()).run()):
        await received(bus, 3)
    async with store.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE outbox SET published_at = NULL")

    async with in_background(Relay(store, emptied := MemoryBus()).run()):
        assert [message.payload for message in await received(emptied, 3)] == [b"0", b"1", b"2"]


async def test_nothing_is_lost_or_doubled_when_the_server_is_killed(
    store: Store[Tables], nats: NatsServer
):
    bus = await NatsBus.connect(nats.url, name="test")
    async with in_background(Relay(store, bus, poll_s=0.1).run()):
        for number in range(120):
            if number in (20, 70):
                nats.kill()
            if number in (40, 90):
                nats.start()
            await decide(store, number)
            await asyncio.sleep(0.005)
        messages = await received(bus, 120)
    await bus.close()

    assert sorted(int(message.payload) for message in messages) == list(range(120))


async def test_a_relay_that_starts_before_the_bus_waits_for_it(
    store: Store[Tables], nats: NatsServer
):
    nats.kill()
    bus = await NatsBus.connect(nats.url, name="test", wait_s=0.1)
    async with in_background(Relay(store, bus).run()):
        await decide(store, 1)
        await asyncio.sleep(0.3)
        nats.start()
        await received(bus, 1)
    await bus.close()


async def test_a_relay_that_died_after_publishing_repeats_without_effect(store: Store[Tables]):
    bus = MemoryBus()
    for number in range(3):
        await decide(store, number)
    await bus.publish("anneal.notes", b"0", "note:0")  # and was not marked as published

    async with in_background(Relay(store, bus).run()):
        messages = await received(bus, 3)

    assert [message.payload for message in messages] == [b"0", b"1", b"2"]


async def test_a_relay_can_be_stopped_at_any_moment(sqlite_url: str):
    store = Store(open_engine(sqlite_url), tables)
    async with store.engine.begin() as connection:
        await connection.run_sync(Row.metadata.create_all)
    bus = MemoryBus()
    for number in range(40):
        relay = asyncio.create_task(Relay(store, bus, poll_s=0.001).run())
        await decide(store, number)
        await asyncio.sleep(number * 0.0003)
        relay.cancel()
        _, running = await asyncio.wait([relay], timeout=5)
        assert not running

    async with in_background(Relay(store, bus).run()):
        messages = await received(bus, 40)
    await store.close()
    assert {int(message.payload) for message in messages} == set(range(40))


async def test_one_of_two_relays_works_and_the_other_takes_over(
    postgresql_url: str, postgres_server: Postgres
):
    stores = [Store(open_engine(postgresql_url), tables) for _ in range(2)]
    async with stores[0].engine.begin() as connection:
        await connection.run_sync(Row.metadata.create_all)
    buses = [MemoryBus(), MemoryBus()]
    async with in_background(Relay(stores[0], buses[0], poll_s=0.05).run()) as first:
        await decide(stores[0], 1)
        await received(buses[0], 1)
        async with in_background(Relay(stores[1], buses[1], poll_s=0.05).run()):
            await asyncio.sleep(0.3)  # the second has asked for the lock by now
            for number in range(2, 12):
                await decide(stores[1], number)
            await received(buses[0], 10)

            first.cancel()
            await asyncio.wait([first])
            await decide(stores[1], 12)

            assert [message.payload for message in await received(buses[1], 1)] == [b"12"]
    for store in stores:
        await store.close()


async def test_a_relay_survives_the_loss_of_its_database(
    postgresql_url: str, postgres_server: Postgres
):
    store = Store(open_engine(postgresql_url), tables)
    async with store.engine.begin() as connection:
        await connection.run_sync(Row.metadata.create_all)
    bus = MemoryBus()
    async with in_background(Relay(store, bus, poll_s=0.05).run()):
        await decide(store, 1)
        await received(bus, 1)
        await postgres_server.disconnect_everybody(postgresql_url)
        await decide(store, 2)
        messages = await received(bus, 1)
    await store.close()

    assert [message.payload for message in messages] == [b"2"]
