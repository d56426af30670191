"""What a NATS cluster adds: a server may die for good, and nobody notices for long."""

import asyncio

import structlog.testing

from services.common.bus import Bus, BusUnavailable
from services.common.bus_nats import NatsBus
from services.common.testing.nats import NatsCluster, NatsServer

MESSAGES = 60
LARGE = b"x" * 100_000
"""So that they are not all stored before one is."""


async def publish_until_stored(bus: Bus, number: int) -> int:
    """How often it took: more than once when the stream had nobody to write it."""
    async with asyncio.timeout(30):
        for tries in range(1, 10_000):
            try:
                await bus.publish("anneal.a", LARGE, str(number))
            except BusUnavailable:
                await asyncio.sleep(0.05)
            else:
                return tries
    raise AssertionError


async def test_nothing_is_lost_or_doubled_when_the_leader_is_killed_in_mid_publish(
    cluster: NatsCluster, cluster_bus: NatsBus
):
    leader = cluster.leader("ANNEAL")
    bus = await NatsBus.connect(leader.url, name="is told the others", replicas=3)
    publishing = [
        asyncio.create_task(publish_until_stored(bus, number)) for number in range(MESSAGES)
    ]
    while not any(task.done() for task in publishing):
        await asyncio.sleep(0)
    leader.kill()
    tries = await asyncio.gather(*publishing)

    assert min(tries) == 1
    assert max(tries) > 1, "the server died too late to be in anybody's way"
    seen: list[int] = []
    async with asyncio.timeout(20), cluster_bus.subscribe("reader", ["anneal.>"]) as deliveries:
        async for delivery in deliveries:
            seen.append(int(delivery.message.message_id))
            await delivery.ack()
            if len(seen) == MESSAGES:
                break
    await bus.publish("anneal.a", b"", "0")  # a repetition is known on the new leader, too
    await bus.close()
    assert sorted(seen) == list(range(MESSAGES))
    assert cluster.stream("ANNEAL")["state"]["messages"] == MESSAGES


async def test_a_stream_is_kept_on_as_many_servers_as_configured(
    cluster: NatsCluster, cluster_bus: NatsBus
):
    others = cluster.stream("ANNEAL")["cluster"]["replicas"]
    assert len(others) == 2


async def test_an_autoscaler_reads_a_lag_where_keda_does(
    cluster: NatsCluster, cluster_bus: NatsBus
):
    await cluster_bus.show_lag("LAG", 4)
    async with asyncio.timeout(5):
        while await asyncio.to_thread(lag_for_keda, cluster) != 4:
            await asyncio.sleep(0.05)


def lag_for_keda(cluster: NatsCluster) -> int:
    """`getMaxMsgLag` of KEDA's nats-jetstream scaler."""
    consumer = cluster.consumer("LAG")
    return consumer["num_pending"] + consumer["num_ack_pending"]


async def test_more_replicas_than_there_are_servers_are_refused_in_words(nats: NatsServer):
    with structlog.testing.capture_logs() as logs:
        bus = await NatsBus.connect(nats.url, name="test", replicas=3, wait_s=0.5)
        await bus.close()
    said = [line["reason"] for line in logs if line["event"] == "bus.stream_refused"]
    assert "replicas > 1 not supported in non-clustered mode" in said
