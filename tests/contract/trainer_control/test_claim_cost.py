"""What a claim says to the database: no more than it must."""

from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from benchmarks.queue_jobs import fill, opened, queued_job, told_statements
from services.common.store import Store
from services.trainer.control.adapters.sql import TrainerTables
from services.trainer.control.domain.endings import Cause, Failure
from services.trainer.control.domain.node_leases import Claim, Lease, LeasePolicy, NodeLeases
from services.trainer.control.domain.signals import Signals

LEAST_STATEMENTS = 14
"""The time; the node, the claim before and the claims' lock; the lines and the shares; the job, the
virtual time, and the share twice; attempt, history and news; checkpoints."""


@pytest.fixture
async def store(database_url: str) -> AsyncGenerator[Store[TrainerTables]]:
    async with opened(database_url) as empty:
        yield empty


@pytest.fixture
def leases(store: Store[TrainerTables]) -> NodeLeases:
    return NodeLeases(store, Signals(), LeasePolicy(events_grace_s=0, retry_delay_s=60))


async def queue(store: Store[TrainerTables], projects: str) -> None:
    """A job for each."""
    async with store.reading() as tables:
        begin = await tables.now() - timedelta(hours=1)
    await fill(
        store,
        [
            queued_job(project, number, begin + timedelta(seconds=number))
            for number, project in enumerate(projects)
        ],
    )


async def claim(leases: NodeLeases, number: int = 0) -> Lease:
    lease = await leases.claim(Claim("node-a", f"claim-{number}"), 0)
    assert lease is not None
    return lease


async def test_a_claim_is_one_transaction_of_few_statements(
    store: Store[TrainerTables], leases: NodeLeases
) -> None:
    await queue(store, "aa")
    await claim(leases)  # the node is known from now on, and the project has a share

    with told_statements(store) as told:
        await claim(leases, 1)

    assert len(told) <= LEAST_STATEMENTS
    assert sum(one.startswith("BEGIN") for one in told) <= 1


async def test_however_many_projects_wait_the_statements_are_the_same(
    store: Store[TrainerTables], leases: NodeLeases
) -> None:
    """Of others their databases would prepare one for each number."""
    await queue(store, "aaabcd")
    for number in range(2):
        await claim(leases, number)

    with told_statements(store) as few:
        await claim(leases, 2)
    await queue(store, "efghij")
    with told_statements(store) as many:
        await claim(leases, 3)

    assert set(many) - {one for one in many if "INTO projects" in one} <= set(few)


async def test_a_node_that_asks_in_vain_writes_nothing(
    store: Store[TrainerTables], leases: NodeLeases
) -> None:
    await leases.claim(Claim("node-a"), 0)

    with told_statements(store) as told:
        assert await leases.claim(Claim("node-a"), 0) is None

    assert not [one for one in told if one.startswith(("INSERT", "UPDATE", "DELETE"))]


async def test_the_first_job_that_is_ready_speaks_for_its_line(
    store: Store[TrainerTables], leases: NodeLeases
) -> None:
    await queue(store, "aab")
    lease = await claim(leases)
    await leases.end(lease.job.name, 1, Failure(Cause.ENGINE_ERROR), 0)  # it waits for a minute

    async with store.reading() as tables:
        waiting = await tables.queue.waiting(await tables.now())

    ready = {one.line.project: one for one in waiting}
    assert ready["a"].since == ready["a"].ready_since
    assert ready["b"].since - ready["a"].since == timedelta(seconds=1)


async def test_a_line_without_a_job_that_is_ready_does_not_wait(
    store: Store[TrainerTables], leases: NodeLeases
) -> None:
    await queue(store, "a")
    lease = await claim(leases)
    await leases.end(lease.job.name, 1, Failure(Cause.ENGINE_ERROR), 0)

    async with store.reading() as tables:
        assert await tables.queue.waiting(await tables.now()) == []


async def test_projects_stand_where_their_shares_and_their_running_jobs_say(
    store: Store[TrainerTables], leases: NodeLeases
) -> None:
    await queue(store, "aab")
    for number in range(2):
        lease = await claim(leases, number)
    assert lease.job.name.project == "b"
    await leases.end(lease.job.name, 1, Failure(Cause.PREEMPTED), 0)

    async with store.reading() as tables:
        shares, running_jobs = await tables.queue.standings()
        assert shares == await tables.queue.shares(["a", "b"])
    assert shares["a"].used_s == 60
    assert running_jobs == {"a": 1, "b": 0}
