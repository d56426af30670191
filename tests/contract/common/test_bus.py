"""What every bus promises, and what NATS does when its server goes away."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog.testing

from services.common.bus import (
    MAX_PAYLOAD_BYTES,
    Bus,
    BusUnavailable,
    Delivery,
    Message,
    matches,
    retry_delays,
)
from services.common.bus_memory import MemoryBus
from services.common.bus_nats import NatsBus
from services.common.testing.nats import NatsServer


async def next_of(deliveries: AsyncIterator[Delivery]) -> Delivery:
    async with asyncio.timeout(15):
        return await anext(deliveries)


async def nothing_more(deliveries: AsyncIterator[Delivery], for_s: float = 0.3) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(for_s):
            await anext(deliveries)


async def publish_when_back(bus: Bus, message_id: str) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                return await bus.publish("anneal.a", b"", message_id)
            except BusUnavailable:
                await asyncio.sleep(0.05)


async def test_a_message_arrives_as_it_was_published(bus: Bus):
    await bus.publish("anneal.jobs.j-1", b"\x00payload\xff", "id-1")

    async with bus.subscribe("reader", ["anneal.jobs.*"]) as deliveries:
        delivery = await next_of(deliveries)

    assert delivery.message == Message("anneal.jobs.j-1", b"\x00payload\xff", "id-1", 1)


async def test_messages_arrive_in_order_and_only_of_the_wanted_subjects(bus: Bus):
    for number, subject in enumerate(["a.x", "b.x", "c.x", "a.y", "a.x.z"]):
        await bus.publish(f"anneal.{subject}", b"", str(number))

    async with bus.subscribe("reader", ["anneal.a.*", "anneal.c.>"]) as deliveries:
        ids: list[str] = []
        for _ in range(3):
            delivery = await next_of(deliveries)
            ids.append(delivery.message.message_id)
            await delivery.ack()
        await nothing_more(deliveries)

    assert ids == ["0", "2", "3"]


async def test_a_message_that_is_published_while_one_waits_arrives_soon(bus: Bus):
    async with bus.subscribe("reader", ["anneal.>"]) as deliveries:
        waiting = asyncio.create_task(anext(deliveries))
        await asyncio.sleep(0.1)
        began_s = asyncio.get_running_loop().time()
        await bus.publish("anneal.a", b"", "1")
        await waiting

    assert asyncio.get_running_loop().time() - began_s < 0.5


async def test_one_message_id_is_stored_once(bus: Bus):
    await bus.publish("anneal.a", b"first", "same")
    await bus.publish("anneal.a", b"second", "same")

    async with bus.subscribe("reader", ["anneal.>"]) as deliveries:
        delivery = await next_of(deliveries)
        await delivery.ack()
        await nothing_more(deliveries)

    assert delivery.message.payload == b"first"


async def test_a_durable_subscriber_goes_on_where_it_stopped(bus: Bus):
    for number in range(3):
        await bus.publish("anneal.a", b"", str(number))
    async with bus.subscribe("reader", ["anneal.>"]) as deliveries:
        await (await next_of(deliveries)).ack()
        await (await next_of(deliveries)).ack()
    await asyncio.sleep(0.05)

    async with bus.subscribe("reader", ["anneal.>"]) as deliveries:
        assert (await next_of(deliveries)).message.message_id == "2"
    async with bus.subscribe("another", ["anneal.>"]) as deliveries:
        assert (await next_of(deliveries)).message.message_id == "0"


async def test_a_nak_brings_the_message_again_after_its_delay(bus: Bus):
    await bus.publish("anneal.a", b"", "1")
    async with bus.subscribe("reader", ["anneal.>"]) as deliveries:
        began_s = asyncio.get_running_loop().time()
        await (await next_of(deliveries)).nak(0.3)
        again = await next_of(deliveries)

    assert again.message.deliveries == 2
    assert asyncio.get_running_loop().time() - began_s > 0.25


async def test_silence_brings_the_message_again(bus: Bus):
    await bus.publish("anneal.a", b"", "1")
    async with bus.subscribe("reader", ["anneal.>"], ack_wait_s=0.3) as deliveries:
        await next_of(deliveries)
        again = await next_of(deliveries)
        await again.ack()
        await nothing_more(deliveries, for_s=0.5)

    assert again.message.deliveries == 2


async def test_a_terminated_message_never_comes_again(bus: Bus):
    await bus.publish("anneal.a", b"", "1")
    async with bus.subscribe("reader", ["anneal.>"], ack_wait_s=0.3) as deliveries:
        await (await next_of(deliveries)).terminate()
        await nothing_more(deliveries, for_s=0.6)


async def test_two_subscribers_of_one_durable_share_the_messages(bus: Bus):
    for number in range(6):
        await bus.publish("anneal.a", b"", str(number))
    seen: list[str] = []

    async def read(deliveries: AsyncIterator[Delivery]) -> None:
        for _ in range(3):
            delivery = await next_of(deliveries)
            seen.append(delivery.message.message_id)
            await delivery.ack()
            await asyncio.sleep(0.01)

    async with (
        bus.subscribe("reader", ["anneal.>"]) as one,
        bus.subscribe("reader", ["anneal.>"]) as other,
    ):
        await asyncio.gather(read(one), read(other))

    assert sorted(seen) == ["0", "1", "2", "3", "4", "5"]


async def test_a_hint_reaches_who_listens_now_and_nobody_later(bus: Bus):
    await bus.hint("hint.jobs.waiting", b"missed")
    async with bus.hints("hint.jobs.*") as early, bus.hints("hint.other") as other:
        await bus.hint("hint.jobs.waiting", b"heard")
        async with asyncio.timeout(5):
            assert await anext(early) == b"heard"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(other)


async def test_what_cannot_be_published_is_the_callers_mistake(bus: Bus):
    with pytest.raises(ValueError):
        await bus.publish("anneal.*", b"", "wildcard")
    with pytest.raises(ValueError):
        await bus.publish("anneal.a", b"x" * (MAX_PAYLOAD_BYTES + 1), "large")


async def test_a_lag_is_shown_as_counted(bus: Bus):
    for count in (3, 3, 5, 1, 0, 2):
        await bus.show_lag("LAG", count)
        await until_lag_is(bus, count)


async def until_lag_is(bus: Bus, count: int) -> None:
    """Of a cluster, a consumer hears of its stream a moment later."""
    async with asyncio.timeout(5):
        while await lag_of(bus) != count:
            await asyncio.sleep(0.02)


async def lag_of(bus: Bus) -> int:
    """What an autoscaler reads: KEDA adds what is not acknowledged to what is pending."""
    if isinstance(bus, MemoryBus):
        return bus.lags["LAG"]
    assert isinstance(bus, NatsBus)
    info = await bus._jetstream().consumer_info("LAG", "LAG")
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def test_two_who_show_a_lag_at_once_do_not_add_up(nats_url: str):
    buses = [await NatsBus.connect(nats_url, name="test") for _ in range(2)]
    await buses[0].show_lag("LAG", 1)
    await asyncio.gather(*(bus.show_lag("LAG", 40) for bus in buses), return_exceptions=True)
    assert await lag_of(buses[0]) <= 41
    await buses[0].show_lag("LAG", 40)
    await until_lag_is(buses[0], 40)
    for bus in buses:
        await bus.close()


async def test_ping_answers(bus: Bus):
    await bus.ping()


async def test_an_outage_is_told_to_publishers_and_not_to_hinters(nats: NatsServer):
    bus = await NatsBus.connect(nats.url, name="test")
    nats.kill()
    await asyncio.sleep(0.2)

    with pytest.raises(BusUnavailable):
        await bus.publish("anneal.a", b"", "1")
    with pytest.raises(BusUnavailable):
        await bus.ping()
    await bus.hint("hint.a")
    await bus.close()


async def test_a_publish_that_the_server_dies_under_is_unavailable(nats: NatsServer):
    """Whether it was stored is not known; the message id makes it safe to repeat."""
    bus = await NatsBus.connect(nats.url, name="test")
    publishing = [
        asyncio.create_task(bus.publish("anneal.a", b"x" * 100_000, str(number)))
        for number in range(50)
    ]
    await asyncio.sleep(0.01)
    nats.kill()
    outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    nats.start()
    for number in range(50):
        await publish_when_back(bus, str(number))

    assert any(isinstance(outcome, BusUnavailable) for outcome in outcomes)
    async with bus.subscribe("reader", ["anneal.>"]) as deliveries:
        for _ in range(50):
            await (await next_of(deliveries)).ack()
        await nothing_more(deliveries)
    await bus.close()


async def test_it_reconnects_after_more_outages_than_nats_py_would_forgive(nats: NatsServer):
    bus = await NatsBus.connect(nats.url, name="test")
    async with bus.subscribe("reader", ["anneal.>"]) as deliveries:
        for outage in range(3):
            nats.kill()
            await asyncio.sleep(0.4)
            nats.start()
            await publish_when_back(bus, f"after {outage}")
            seen: list[str] = []
            while f"after {outage}" not in seen:  # an acknowledgement may die with the server
                delivery = await next_of(deliveries)
                seen.append(delivery.message.message_id)
                await delivery.ack()
    await bus.close()


async def test_a_server_that_lost_its_disk_gets_the_stream_and_the_consumer_again(
    nats: NatsServer,
):
    bus = await NatsBus.connect(nats.url, name="test")
    async with bus.subscribe("reader", ["anneal.>"]) as deliveries:
        await publish_when_back(bus, "1")
        await (await next_of(deliveries)).ack()
        nats.kill()
        nats.erase()
        nats.start()
        await publish_when_back(bus, "2")
        assert (await next_of(deliveries)).message.message_id == "2"
    await bus.close()


async def test_a_bus_may_start_before_its_server(nats: NatsServer):
    nats.kill()
    bus = await NatsBus.connect(nats.url, name="test", wait_s=0.1)
    with pytest.raises(BusUnavailable):
        await bus.ping()

    async with bus.subscribe("reader", ["anneal.>"]) as deliveries:
        waiting = asyncio.create_task(next_of(deliveries))
        await asyncio.sleep(0.2)
        nats.start()
        await publish_when_back(bus, "1")
        assert (await waiting).message.message_id == "1"
    await bus.close()


async def test_a_bus_that_never_connected_can_be_closed(nats: NatsServer):
    nats.kill()
    bus = await NatsBus.connect(nats.url, name="test", wait_s=0.1)
    await bus.close()


def test_a_bus_that_closes_under_a_subscriber_leaves_nothing_to_complain_about(nats: NatsServer):
    complaints: list[dict[str, Any]] = []

    async def stop_while_waiting() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, complaint: complaints.append(complaint)
        )
        bus = await NatsBus.connect(nats.url, name="test")
        async with bus.subscribe("reader", ["anneal.>"]) as deliveries:
            await nothing_more(deliveries)
        await bus.close()

    asyncio.run(stop_while_waiting())
    assert complaints == []


async def test_an_operators_stream_of_another_shape_is_used_as_it_is(nats: NatsServer):
    first = await NatsBus.connect(nats.url, name="operator", subjects=("anneal.>", "more.>"))
    with structlog.testing.capture_logs() as logs:
        second = await NatsBus.connect(nats.url, name="service")

    await second.publish("more.a", b"", "1")
    assert "bus.stream_differs" in [log["event"] for log in logs]
    await first.close()
    await second.close()


async def test_a_connection_that_the_server_refuses_later_is_opened_anew(nats: NatsServer):
    bus = await NatsBus.connect(nats.url, name="test")
    client = bus._client
    await client._process_err("'some fatal protocol error'")  # as the server would say it
    await asyncio.sleep(0)

    await publish_when_back(bus, "1")
    await bus.close()


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.*.c", "a.b.c", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a.b", True),
    ],
)
def test_subjects_match_as_nats_matches_them(pattern: str, subject: str, expected: bool):
    assert matches(pattern, subject) is expected


def test_retry_delays_double_up_to_five_seconds_and_are_jittered():
    latest = [delay for delay, _ in zip(retry_delays(lambda: 1.0), range(8), strict=False)]
    soonest = [delay for delay, _ in zip(retry_delays(lambda: 0.0), range(8), strict=False)]

    assert latest == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert soonest == pytest.approx([delay / 2 for delay in latest])
