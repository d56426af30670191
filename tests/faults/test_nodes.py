"""What befalls nodes: they stand still, die between two writes, are told to stop, have a wrong
clock."""

import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from anneal.trainer.v1.tuning_job_pb2 import TuningJob, TuningJobAttempt, TuningJobEvent
from services.common.failpoints import EXIT_CODE, FAILPOINTS
from tests.faults.conftest import LEASE_S
from tests.faults.figures import quantile
from tests.faults.site import Site
from tests.faults.world import LONG_TRAINING, PATIENCE_S, QUICK, World

pytestmark = pytest.mark.timeout(900)

HEARTBEAT_S = min(float(LEASE_S) / 3, 3.0)
STALL_S = 4.0
"""A step takes some hundredths of a second."""
LOOKS_AND_LAST_WORDS_S = 3.0
CANCELS = {False: 2, True: 50}
NODE_POINTS = [name for name in FAILPOINTS if name.startswith("node.")]


@pytest.fixture(autouse=True)
def only_node_a(site: Site) -> Generator[None]:
    yield
    site.one_node("node-a")


def finished(desk: World, job: TuningJob) -> list[TuningJobEvent]:
    """Its history, when it has succeeded."""
    history = list(desk.watch(job))
    desk.only_adapter(job)
    return history


@pytest.mark.fault("R3")
def test_a_frozen_node_wakes_to_a_lost_lease_and_goes_on(
    site: Site, desk: World, tell: Callable[..., None]
) -> None:
    job = desk.create("frozen")
    next(event for event in desk.watch(job) if event.step.step >= 8)
    site.freeze("node-a")
    site.start("node-b")
    history = finished(desk, job)
    assert desk.client.jobs.get(job.name).node == "node-b"
    assert site.stop("node-b")[0] == 0

    site.thaw("node-a")
    woke_s = site.wait_for(
        lambda: "attempt.lease_lost" in site.log("node-a"), "the zombie to hear of it", PATIENCE_S
    )
    next_job = desk.create("after-frozen", QUICK)
    finished(desk, next_job)
    assert desk.client.jobs.get(next_job.name).node == "node-a"

    assert list(desk.watch(job)) == history, "the zombie has written"
    assert desk.versions(job) == 1
    tell("R3", zombie="frozen in training", stale_writes=0, versions=1, heard_after_s=woke_s)


@pytest.mark.fault("R3")
def test_a_result_that_comes_too_late_is_refused(
    site: Site, desk: World, tell: Callable[..., None]
) -> None:
    """The zombie has trained to the end, and stands still before it says so."""
    site.stop("node-a")
    site.start("node-z", ANNEAL_FAILPOINTS="node.completing=sleep:12@1")
    job = desk.create("late", QUICK)
    next(event for event in desk.watch(job) if event.step.step == QUICK.max_steps)
    site.start("node-a")
    history = finished(desk, job)
    ended = desk.client.jobs.get(job.name)
    assert (ended.node, ended.attempt) == ("node-a", 2)

    site.wait_for(
        lambda: "attempt.lease_lost" in site.log("node-z"), "the zombie's result", PATIENCE_S
    )
    assert site.stop("node-z")[0] == 0
    assert desk.client.jobs.get(job.name) == ended
    assert list(desk.watch(job)) == history, "the zombie has written"
    assert desk.versions(job) == 1
    tell("R3", zombie="frozen before its result", stale_writes=0, versions=1)


@pytest.mark.fault("R4")
@pytest.mark.parametrize("name", NODE_POINTS)
def test_a_node_that_dies_between_two_writes_loses_and_doubles_nothing(
    name: str, site: Site, desk: World, tell: Callable[..., None]
) -> None:
    site.stop("node-a")
    site.start("node-z", ANNEAL_FAILPOINTS=f"{name}=exit@1")
    job = desk.create(name.replace(".", "-"), QUICK)
    assert site.exit_code("node-z", PATIENCE_S) == EXIT_CODE
    left = {"state": TuningJob.State.Name(desk.client.jobs.get(job.name).state)}
    site.start("node-a")
    finished(desk, job)
    assert (desk.client.jobs.get(job.name).attempt, desk.versions(job)) == (2, 1)
    tell("R4", point=name, left=left, recovered=True)


@pytest.mark.fault("R8")
@pytest.mark.parametrize("name", ["blobs.staging", "blobs.fetched"])
def test_a_disk_that_is_full_for_a_moment_costs_an_attempt(
    name: str, site: Site, desk: World, tell: Callable[..., None], tmp_path: Path
) -> None:
    """While a checkpoint is stored, and while the examples are fetched."""
    site.stop("node-a")
    armed = f"{name}=raise:ENOSPC@1"
    site.start("node-full", ANNEAL_FAILPOINTS=armed, ANNEAL_CACHE_DIR=str(tmp_path))
    job = desk.create(f"full-{name.replace('.', '-')}", QUICK)
    finished(desk, job)
    ended = desk.client.jobs.get(job.name)
    assert (ended.attempt, ended.node, desk.versions(job)) == (2, "node-full", 1)
    assert site.stop("node-full")[0] == 0
    site.start("node-a")
    tell("R8", what=f"disk full on a node, {name}", wrong_terminal_states=0, attempts=2)


@pytest.mark.fault("R12")
def test_a_cancel_stops_the_engine_within_a_heartbeat(
    site: Site, desk: World, long: bool, tell: Callable[..., None]
) -> None:
    took_s = [cancelled_after(site, desk, f"cancelled-{i}") for i in range(CANCELS[long])]
    figures = {"p50_s": quantile(took_s, 0.5), "p99_s": quantile(took_s, 0.99)}
    tell("R12", cancels=len(took_s), heartbeat_s=HEARTBEAT_S, **figures)
    assert max(took_s) <= HEARTBEAT_S + 2, "a step, and a checkpoint of it"


def cancelled_after(site: Site, desk: World, name: str) -> float:
    """Seconds from the answer to the call until there is no engine."""
    job = desk.create(name, LONG_TRAINING)
    next(event for event in desk.watch(job) if event.step.step >= 3)
    engine = site.engine("node-a")
    assert engine is not None
    desk.client.jobs.cancel(job.name)
    took_s = site.wait_for(lambda: not runs(engine), "the engine to stop", PATIENCE_S)
    list(desk.watch(job))
    assert desk.client.jobs.get(job.name).state == TuningJob.STATE_CANCELLED
    return took_s


def runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.fault("R18")
def test_an_engine_that_hangs_is_killed_in_time_and_costs_no_byte(
    site: Site, desk: World, tell: Callable[..., None]
) -> None:
    undisturbed = desk.undisturbed
    site.stop("node-a")
    as_ever = {"ANNEAL_TEST_ENGINE_FORKS": "", "ANNEAL_WARM_ENGINES": "0"}
    site.start("node-real", ANNEAL_STALL_LEAST_S=str(STALL_S), **as_ever)
    job = desk.create("hanging")
    next(event for event in desk.watch(job) if event.step.step >= 8)
    engine = site.engine("node-real")
    assert engine is not None
    engine.suspend()
    took_s = site.wait_for(lambda: not runs(engine), "the engine to be killed", PATIENCE_S)
    finished(desk, job)
    first, second = desk.client.jobs.attempts(job.name)
    assert (first.outcome, second.outcome) == (
        TuningJobAttempt.OUTCOME_NO_PROGRESS,
        TuningJobAttempt.OUTCOME_COMPLETED,
    )
    assert desk.only_adapter(job) == undisturbed
    assert took_s <= STALL_S + LOOKS_AND_LAST_WORDS_S
    assert site.stop("node-real")[0] == 0
    site.start("node-a")
    tell("R18", limit_s=STALL_S, killed_after_s=took_s, attempts=2, same_bytes=True)


@pytest.mark.fault("R13")
def test_a_clock_that_is_wrong_by_an_hour_costs_no_lease(
    site: Site, desk: World, long: bool, tell: Callable[..., None]
) -> None:
    site.stop("node-a")
    jobs = {}
    for node, wrong_by_s in {"node-early": -3600, "node-late": 3600}.items():
        site.start(node, ANNEAL_TEST_CLOCK_S=str(wrong_by_s))
        jobs[node] = desk.create(node, LONG_TRAINING)
    for job in jobs.values():
        next(event for event in desk.watch(job) if event.step.step >= 1)
    time.sleep(float(LEASE_S) * (12 if long else 1.5))
    for job in jobs.values():
        now = desk.client.jobs.get(job.name)
        assert (now.state, now.attempt) == (TuningJob.STATE_RUNNING, 1)
        desk.client.jobs.cancel(job.name)
        list(desk.watch(job))
        ended = desk.client.jobs.get(job.name)
        assert abs(ended.end_time.ToDatetime(UTC) - datetime.now(UTC)).total_seconds() < 60
    for node in jobs:
        assert "lease_lost" not in site.log(node)
        assert site.stop(node)[0] == 0
    site.start("node-a")
    tell("R13", hours_wrong=[-1, 1], lease_errors=0, leases_long=12 if long else 1.5)
