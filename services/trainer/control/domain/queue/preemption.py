"""Room for urgent jobs: where no node is free for one, a running job of lower priority goes back
into the queue after a checkpoint. It loses no step, and no attempt. (Backends other than Anneal's
own write no checkpoint: their jobs begin anew, and are asked last.)"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from structlog.typing import FilteringBoundLogger

from services.trainer.control.domain.changes import change
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.ports import Store, Unit
from services.trainer.control.domain.queue.claims import demand
from services.trainer.control.domain.queue.lines import Line
from services.trainer.control.domain.queue.requirements import Priority
from services.trainer.control.domain.queue.shares import Demand, settlement_s
from services.trainer.control.domain.recurring import repeat
from services.trainer.control.domain.settings import Backend
from services.trainer.control.domain.states import State

PATIENCE = timedelta(seconds=2)
"""How long an urgent job waits for a node that is free: nodes ask all the time."""

log: FilteringBoundLogger = structlog.get_logger(__name__)


def victims(
    demand: Demand, running: Sequence[TuningJob], offers: Mapping[str, Offer], now: datetime
) -> list[TuningJob]:
    """The jobs that are to make room: of those that could, for each urgent line one that loses no
    step, of these the one of lowest priority, and of these the one that began last. None for a line
    that a job makes room for already, nor in favour of a project that has had its turn."""
    chosen: list[TuningJob] = []
    for one in demand.turns(now):
        line = one.line
        if line.priority is not Priority.URGENT or now - one.ready_since < PATIENCE:
            continue
        able = [
            job for job in running if job not in chosen and _could_be_trained(line, job, offers)
        ]
        if any(job.yields for job in able):
            continue
        rank = demand.rank(line.project, line.priority)
        later = [job for job in able if _gives_way(job, demand, rank, now)]
        chosen += sorted(later, key=_dearness)[:1]
    return chosen


class Preemption:
    """Asks jobs to make room, for as long as urgent ones wait."""

    def __init__(self, store: Store, every_s: float = 1.0) -> None:
        self._store = store
        self._every_s = every_s

    async def run(self) -> None:
        """Runs until it is cancelled, through outages of the database."""
        await repeat(self.make_room, self._every_s, "preemption.paused")

    async def make_room(self) -> None:
        """Raises Unavailable and Aborted."""
        async with self._store.reading() as unit:
            chosen = await _victims_in(unit)
        for job in chosen:
            await self._ask(job)

    async def _ask(self, chosen: TuningJob) -> None:
        """Unless something has become of it since."""
        async with self._store.writing() as unit:
            job = await unit.jobs.hold(chosen.name)
            if job is None or job.state is not State.RUNNING or job.attempt != chosen.attempt:
                return
            await change(unit, job, replace(job, yields=True))
        log.info("job.preempted", job=str(job.name), attempt=job.attempt, node=job.node)


async def _victims_in(unit: Unit) -> list[TuningJob]:
    now = await unit.now()
    waiting = await demand(unit, now)
    if all(one.line.priority is not Priority.URGENT for one in waiting.waiting):
        return []
    running = await unit.queue.running()
    offers = await unit.nodes.named({job.node for job in running})
    return victims(waiting, running, offers, now)


def _could_be_trained(line: Line, job: TuningJob, offers: Mapping[str, Offer]) -> bool:
    """Whether the line's jobs could be trained in the place of this one."""
    offer = offers.get(job.node)
    return offer is not None and replace(offer, free_devices=job.device_count).can_train(line)


def _gives_way(job: TuningJob, demand: Demand, rank: float, now: datetime) -> bool:
    """Whether the urgent job would still come first once this one waits again, and its project has
    back what it was charged in advance."""
    priority, project = job.spec.settings.priority, job.name.project
    if priority is Priority.URGENT or job.state is not State.RUNNING or job.claim_time is None:
        return False
    unused_s = -settlement_s(job.charged_s, now - job.claim_time, job.device_count)
    refund = max(0.0, unused_s) / demand.share(project).quota.weight
    return rank < demand.rank(project, priority) - refund


def _dearness(job: TuningJob) -> tuple[bool, int, float]:
    """Whoever loses no step goes before others, also at a higher priority: it only waits."""
    settings = job.spec.settings
    begun = job.claim_time.timestamp() if job.claim_time else 0.0
    return settings.backend is not Backend.BUILTIN, settings.priority.rank, -begun
