"""A message has its effect once, however often it is delivered and whatever fails between."""

import asyncio
from itertools import repeat

import pytest
import structlog.testing

from services.common import inbox
from services.common.bus import Bus, Message
from services.common.bus_memory import MemoryBus
from services.common.bus_nats import NatsBus
from services.common.faults import Unavailable
from services.common.inbox import Consumer
from services.common.store import Store
from services.common.testing.nats import NatsServer
from tests.contract.common.notes import Tables
from tests.contract.common.test_outbox import eventually, in_background

SUBJECTS = ["anneal.notes"]


async def take_note(tables: Tables, message: Message) -> None:
    await tables.add_note(message.message_id)


async def notes_of(store: Store[Tables]) -> list[str]:
    async with store.reading() as db:
        return await db.notes()


async def test_each_message_has_its_effect(store: Store[Tables], bus: Bus):
    async with in_background(Consumer(bus, store, "notes", SUBJECTS, take_note).run()):
        for number in range(5):
            await bus.publish("anneal.notes", b"", f"{number}")

        await eventually(lambda: equals(store, ["0", "1", "2", "3", "4"]))


async def equals(store: Store[Tables], notes: list[str]) -> bool:
    return await notes_of(store) == notes


async def test_a_redelivery_has_no_second_effect(store: Store[Tables], bus: Bus):
    """The first consumer dies between its commit and its acknowledgement."""
    effects: list[str] = []

    async def handle(tables: Tables, message: Message) -> None:
        effects.append(message.message_id)
        await tables.add_note(message.message_id)

    await bus.publish("anneal.notes", b"", "one")
    async with bus.subscribe("notes", SUBJECTS, ack_wait_s=0.3) as deliveries:
        delivery = await anext(deliveries)
        async with store.writing() as db:
            assert await db.inbox.first_time("notes", delivery.message.message_id)
            await handle(db, delivery.message)

    await asyncio.sleep(0.4)
    async with in_background(Consumer(bus, store, "notes", SUBJECTS, handle).run()):
        await bus.publish("anneal.notes", b"", "two")
        await eventually(lambda: equals(store, ["one", "two"]))

    assert effects == ["one", "two"]


async def test_two_consumers_have_an_effect_each(store: Store[Tables]):
    async with store.writing() as db:
        assert await db.inbox.first_time("one", "m")
        assert await db.inbox.first_time("other", "m")
        assert not await db.inbox.first_time("one", "m")


async def test_a_handler_that_fails_leaves_nothing_and_is_tried_again(
    store: Store[Tables], bus: Bus
):
    tries: list[int] = []

    async def handle(tables: Tables, message: Message) -> None:
        tries.append(message.deliveries)
        await tables.add_note("half")
        if len(tries) < 3:
            raise ValueError("not yet")

    await bus.publish("anneal.notes", b"", "one")
    consumer = Consumer(bus, store, "notes", SUBJECTS, handle, first_retry_s=0.05)
    with structlog.testing.capture_logs() as logs:
        async with in_background(consumer.run()):
            await eventually(lambda: equals(store, ["half"]))

    assert tries == [1, 2, 3]
    assert [log["message_id"] for log in logs if log["event"] == "consumer.failed"] == ["one"] * 2


async def test_poison_is_given_up_and_does_not_block_the_rest(
    store: Store[Tables], monkeypatch: pytest.MonkeyPatch
):
    bus = MemoryBus()
    monkeypatch.setattr(inbox, "_MAX_RETRY_S", 0.001)

    async def handle(tables: Tables, message: Message) -> None:
        if message.message_id == "poison":
            raise ValueError("cannot be digested")
        await take_note(tables, message)

    await bus.publish("anneal.notes", b"", "poison")
    consumer = Consumer(bus, store, "notes", SUBJECTS, handle)
    with structlog.testing.capture_logs() as logs:
        async with in_background(consumer.run()):
            await bus.publish("anneal.notes", b"", "food")
            await eventually(lambda: equals(store, ["food"]))

            async def given_up() -> bool:
                return any(log["event"] == "consumer.gave_up" for log in logs)

            await eventually(given_up)

    (gave_up,) = [log for log in logs if log["event"] == "consumer.gave_up"]
    assert (gave_up["log_level"], gave_up["message_id"]) == ("error", "poison")
    assert gave_up["failures"] == inbox.MAX_FAILURES


async def test_an_outage_is_no_failure_of_the_message(store: Store[Tables]):
    bus = MemoryBus()
    outages = inbox.MAX_FAILURES + 5

    async def handle(tables: Tables, message: Message) -> None:
        if message.deliveries <= outages:
            raise Unavailable("REGISTRY_UNAVAILABLE", "away")
        await take_note(tables, message)

    await bus.publish("anneal.notes", b"", "patient")
    consumer = Consumer(
        bus, store, "notes", SUBJECTS, handle, first_retry_s=0.0, delays=lambda: repeat(0.01)
    )
    async with in_background(consumer.run()):
        await eventually(lambda: equals(store, ["patient"]))


async def test_a_consumer_goes_on_after_the_server_was_killed(
    store: Store[Tables], nats: NatsServer
):
    bus = await NatsBus.connect(nats.url, name="test")
    async with in_background(Consumer(bus, store, "notes", SUBJECTS, take_note).run()):
        await bus.publish("anneal.notes", b"", "before")
        await eventually(lambda: equals(store, ["before"]))
        nats.kill()
        nats.start()
        await eventually(lambda: published(bus, "later"))
        await eventually(lambda: equals(store, ["before", "later"]))
    await bus.close()


async def published(bus: Bus, message_id: str) -> bool:
    try:
        await bus.publish("anneal.notes", b"", message_id)
    except Unavailable:
        return False
    return True
