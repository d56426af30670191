"""R1: anything may die at any moment under a stream of jobs, and each job is done exactly once."""

import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from threading import Event, Thread

import psutil
import pytest

from anneal.errors import AlreadyExists, AnnealError
from anneal.trainer.v1.tuning_job_pb2 import TuningJob, TuningJobEvent
from services.common.testing.postgres import Postgres
from tests.faults.site import Site
from tests.faults.world import QUICK, World

pytestmark = [pytest.mark.fault("R1"), pytest.mark.slow, pytest.mark.timeout(1800)]

SHORT_S, LONG_S = 8.0, 600.0
PAUSE_S = (1.0, 3.0)
AT_ONCE = 4
DRAIN_S = 180.0
PASSING = {"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "ABORTED"}


class Stream:
    """Callers: each hands a job in, watches it to its end, and hands in the next."""

    def __init__(self, desk: World, prefix: str, callers: int) -> None:
        self._desk = desk
        self._prefix = prefix
        self._over = Event()
        self.seen: dict[str, list[TuningJobEvent]] = {}
        self.failures: list[BaseException] = []
        self._threads = [Thread(target=self._call, args=(n,), daemon=True) for n in range(callers)]
        for thread in self._threads:
            thread.start()

    def end(self, tend: Callable[[], None]) -> None:
        """Hands in no more, and returns when the last job has ended; calls `tend` meanwhile."""
        self._over.set()
        until_s = time.monotonic() + DRAIN_S
        while any(thread.is_alive() for thread in self._threads):
            assert time.monotonic() < until_s, "a job does not end"
            tend()
            time.sleep(0.2)
        assert not self.failures

    def _call(self, number: int) -> None:
        try:
            turn = 0
            while not self._over.is_set():
                turn += 1
                job = self._handed_in(f"{self._prefix}-{number}-{turn}")
                self.seen[job.name] = list(self._desk.client.jobs.watch(job.name))
        except BaseException as error:
            self.failures.append(error)
            raise

    def _handed_in(self, name: str) -> TuningJob:
        """As a caller does who is not answered: once more, under the same name."""
        while True:
            try:
                return self._desk.create(name, QUICK)
            except AlreadyExists:
                return self._desk.client.jobs.get(name)
            except AnnealError as error:
                if error.code not in PASSING:
                    raise
                time.sleep(0.2)


class Killer:
    """Kills what it draws, and starts it again at once."""

    def __init__(self, site: Site, server: Postgres | None) -> None:
        self.site = site
        self._server = server
        self._nodes = [name for name in site.names if name.startswith("node")]
        self.victims = ["nats", *site.services, *self._nodes, "engine"]
        if server is not None:
            self.victims.append("postgres")
        self.kills: Counter[str] = Counter()

    def kill(self, victim: str) -> None:
        if victim == "engine":
            self._kill_engine()
            return
        if victim == "postgres":
            assert self._server is not None
            self._server.kill()
            self._server.start()
        else:
            self.site.kill(victim)
            self.site.start(victim)
        self.kills[victim] += 1

    def _kill_engine(self) -> None:
        for engine in filter(None, map(self.site.engine, self._nodes)):
            with suppress(psutil.NoSuchProcess):
                engine.kill()
                self.kills["engine"] += 1
                return


@pytest.fixture
def killer(
    request: pytest.FixtureRequest, long: bool, tough_desk: tuple[Site, World]
) -> Generator[Killer]:
    site, _ = tough_desk
    site.start("node-b")
    yield Killer(site, request.getfixturevalue("durable_postgres") if long else None)
    site.one_node("node-a")


def test_every_job_is_done_once_whatever_is_killed(
    killer: Killer,
    tough_desk: tuple[Site, World],
    long: bool,
    lasting_s: Callable[[float, float], float],
    tell: Callable[..., None],
) -> None:
    _, desk = tough_desk
    seed = secrets.randbelow(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    began_s = time.monotonic()
    stream = Stream(desk, f"soak-{seed}", AT_ONCE if long else 2)
    until_s = began_s + lasting_s(SHORT_S, LONG_S)
    while time.monotonic() < until_s:
        time.sleep(chance.uniform(*PAUSE_S))
        killer.site.tend()
        killer.kill(chance.choice(killer.victims))
    killed_s = time.monotonic() - began_s
    stream.end(killer.site.tend)
    figures = judged(desk, stream.seen)
    tell(
        "R1",
        seconds=killed_s,
        kills=dict(killer.kills),
        all_kills=killer.kills.total(),
        drained_after_s=time.monotonic() - began_s - killed_s,
        **figures,
    )
    assert (figures["lost"], figures["duplicated"], figures["watchers_with_gaps"]) == (0, 0, 0)


def judged(desk: World, seen: dict[str, list[TuningJobEvent]]) -> dict[str, object]:
    """What became of the jobs, and of what their watchers saw, all through the kills."""
    jobs = [desk.client.jobs.get(name) for name in seen]
    done = [job for job in jobs if job.state == TuningJob.STATE_SUCCEEDED]
    for job in done:
        desk.client.models.wait_for_version(job.model_version, timeout_s=DRAIN_S)
    versions = [desk.versions(job) for job in done]
    histories = {name: list(desk.watch(desk.client.jobs.get(name))) for name in seen}
    whole = [
        seen[name] == history
        and [event.sequence for event in history] == list(range(1, len(history) + 1))
        for name, history in histories.items()
    ]
    return {
        "committed": len(jobs),
        "succeeded": len(done),
        "lost": len(jobs) - len(done),
        "duplicated": sum(count > 1 for count in versions),
        "versions_per_job": sorted(set(versions)),
        "attempts": sum(job.attempt for job in jobs),
        "watchers_with_gaps": whole.count(False),
    }
