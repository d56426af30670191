"""R6: the network between two programs turns bad while a job is trained."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from anneal.errors import Unavailable
from anneal.trainer.v1.tuning_job_pb2 import TuningJob
from anneal.waiting import Patience
from services.common.testing.fault_proxy import FaultProxy
from services.trainer.control.domain.node_leases import LeasePolicy
from tests.faults.site import Site
from tests.faults.test_outages import missing
from tests.faults.world import LONG_TRAINING, PATIENCE_S, World, steps_of

pytestmark = [pytest.mark.fault("R6"), pytest.mark.slow, pytest.mark.timeout(1800)]

TROUBLE = re.compile(
    r"no_heartbeat|bus_away|bus\.(?:error|disconnected)|trainer_away|paused|UNAVAILABLE|not_serving"
)
"""How a program says in its log that it misses another one."""

DETECTION_LIMIT_S = 40.0
CONNECTED_WITHIN_S = 5.0
SHIPPED_LEASE_S = LeasePolicy().lease_s
POSTGRES_SOCKET = ".s.PGSQL.5432"


def black_hole(proxy: FaultProxy) -> None:
    proxy.black_hole()


def latency(proxy: FaultProxy) -> None:
    proxy.latency_s = 0.5


def throttled(proxy: FaultProxy) -> None:
    proxy.bytes_per_s = 10_000


def reset(proxy: FaultProxy) -> None:
    proxy.reset()


def stranded(proxy: FaultProxy) -> None:
    proxy.strand()


LONG_FAULTS = (black_hole, latency, throttled, reset, stranded)
SILENT = (latency, throttled)
"""What only makes things slow, and nobody complains of; it lasts so long."""
SILENT_S = {False: 1.0, True: 15.0}


@dataclass(frozen=True)
class Link:
    """`program` is who misses the other end."""

    name: str
    program: str
    proxy: FaultProxy


@asynccontextmanager
async def linked(site: Site, databases: dict[str, str]) -> AsyncGenerator[list[Link]]:
    """Trainer control and its node, whose connections go through proxies as long as the block; with
    databases, the leases are as long as we ship them."""
    async with AsyncExitStack() as held:

        async def before(port: int) -> FaultProxy:
            return await held.enter_async_context(FaultProxy("127.0.0.1", port))

        links = [
            Link("node-control", "node-a", await before(site.ports.trainer)),
            Link("node-NATS", "node-a", await before(site.ports.nats)),
            Link("control-NATS", "trainer", await before(site.ports.nats)),
        ]
        node_to_control, node_to_nats, control_to_nats = (link.proxy for link in links)
        own = {"ANNEAL_NATS_URL": f"nats://{control_to_nats.address}"}
        if databases:
            proxy, own["ANNEAL_DATABASE_URL"] = await before_postgres(held, databases["trainer"])
            own["ANNEAL_LEASES_LEASE_S"] = str(SHIPPED_LEASE_S)
            links.append(Link("control-PostgreSQL", "trainer", proxy))
        await stopped(site)
        site.start("trainer", **own)
        await asyncio.to_thread(site.await_serving, "trainer")
        site.start(
            "node-a",
            ANNEAL_TRAINER_ADDRESS=node_to_control.address,
            ANNEAL_NATS_URL=f"nats://{node_to_nats.address}",
        )
        yield links
        await stopped(site)
    site.start("trainer")
    site.start("node-a")
    await asyncio.to_thread(site.await_serving, "trainer")


async def stopped(site: Site) -> None:
    for name in ("node-a", "trainer"):
        await asyncio.to_thread(site.stop, name)


async def before_postgres(held: AsyncExitStack, url: str) -> tuple[FaultProxy, str]:
    """A proxy before the server's socket, and the URL that leads through it."""
    (directory,) = parse_qs(urlsplit(url).query)["host"]
    proxy = await held.enter_async_context(FaultProxy.to_socket(Path(directory) / POSTGRES_SOCKET))
    head, _, database = url.partition("?")[0].rpartition("/")
    return proxy, f"{head.removesuffix('@')}@{proxy.address}/{database}"


@pytest.fixture
def databases(request: pytest.FixtureRequest, long: bool) -> dict[str, str]:
    """PostgreSQL's in the long run; the short one is on SQLite."""
    return request.getfixturevalue("service_databases") if long else {}


async def until(condition: Callable[[], bool], limit_s: float) -> float:
    """Seconds until it holds, or the limit."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < limit_s:
        if await asyncio.to_thread(condition):
            break
        await asyncio.sleep(0.02)
    return time.monotonic() - began_s


async def test_a_bad_network_loses_no_event_and_no_lease_for_good(
    tough_desk: tuple[Site, World],
    databases: dict[str, str],
    long: bool,
    tell: Callable[..., None],
) -> None:
    site, desk = tough_desk
    async with linked(site, databases) as links:
        job = await asyncio.to_thread(desk.create, "far-away", LONG_TRAINING)
        await until(lambda: step_of(desk, job) > 5, PATIENCE_S)
        for link in links:
            for fault in LONG_FAULTS if long else (latency, reset):
                figures = await tried(site, link, fault, long, lambda: step_of(desk, job))
                tell("R6", link=link.name, network=fault.__name__, **figures)
        if long:
            now = await asyncio.to_thread(seen, desk, job)
            assert now.attempt == 1, "no fault lasted for a lease"
            tell("R6", link=links[0].name, **await lease_lost(desk, job, links[0].proxy))
        await asyncio.to_thread(desk.client.jobs.cancel, job.name)
        history = await asyncio.to_thread(lambda: list(desk.watch(job)))
    assert desk.client.jobs.get(job.name).state == TuningJob.STATE_CANCELLED
    assert missing(history) == 0
    assert set(steps_of(history)) == set(range(1, max(steps_of(history)) + 1))
    tell("R6", events=len(history), lost_events=0, attempts=history[-1].attempt)


async def tried(
    site: Site,
    link: Link,
    fault: Callable[[FaultProxy], None],
    long: bool,
    step: Callable[[], int],
) -> dict[str, object]:
    """Seconds until the program notices, and until progress is seen again after it healed."""
    if fault is stranded:
        await asyncio.sleep(CONNECTED_WITHIN_S)  # else there would be nobody to strand
    log_length = len(site.log(link.program))

    def notices() -> bool:
        return TROUBLE.search(site.log(link.program)[log_length:]) is not None

    fault(link.proxy)
    limit_s = SILENT_S[long] if fault in SILENT else DETECTION_LIMIT_S
    noticed_s = await until(notices, 1.0 if fault is reset else limit_s)
    link.proxy.heal()
    healed_at = await asyncio.to_thread(step)
    recovered_s = await until(lambda: step() > healed_at, PATIENCE_S)
    assert recovered_s < PATIENCE_S, f"no progress after {link.name} healed"
    figures: dict[str, object] = {"recovered_after_s": recovered_s}
    return figures | ({"noticed_after_s": noticed_s} if notices() else {"noticed": "no"})


async def lease_lost(desk: World, job: TuningJob, proxy: FaultProxy) -> dict[str, object]:
    """The node is cut off until its lease is over, and then for a moment more."""
    began_s = time.monotonic()
    proxy.black_hole()
    limit_s = 3 * SHIPPED_LEASE_S
    await until(lambda: seen(desk, job).state == TuningJob.STATE_QUEUED, limit_s)
    taken_back_s = time.monotonic() - began_s
    await asyncio.sleep(DETECTION_LIMIT_S - SHIPPED_LEASE_S)
    lost_at = await asyncio.to_thread(step_of, desk, job)
    proxy.heal()
    claimed_s = await until(lambda: seen(desk, job).attempt == 2, PATIENCE_S)
    caught_up_s = claimed_s + await until(lambda: step_of(desk, job) > lost_at, PATIENCE_S)
    return {
        "network": "black hole, until the lease was over",
        "taken_back_after_s": taken_back_s,
        "claimed_again_after_s": claimed_s,
        "caught_up_after_s": caught_up_s,
    }


def step_of(desk: World, job: TuningJob) -> int:
    return seen(desk, job).progress.step


def seen(desk: World, job: TuningJob) -> TuningJob:
    """The job, asked for again where control had a stranded connection to its database left."""
    return Patience(PATIENCE_S).call(
        lambda: desk.client.jobs.get(job.name), lambda error: isinstance(error, Unavailable)
    )
