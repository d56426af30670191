"""Whose turn it is: stride scheduling (Waldspurger and Weihl, 1995) between projects.

A project's pass grows by the device-seconds that it trains, divided by its weight, and the lowest
pass is served next: so projects that always have work waiting get devices in proportion to their
weights, whatever the number and length of their jobs. A priority moves a line by a credit of
device-seconds. The credit is bounded, and what it brings is paid back: no project can starve
another by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.trainer.control.domain.queue.lines import Line
from services.trainer.control.domain.queue.requirements import Priority

QUANTUM_S = 60.0
"""So much a device is charged in advance, again and again while the job runs: nodes that become
free at the same moment see that a project was served already. In the end what was too much is given
back."""

CREDIT_S: Mapping[Priority, float] = {
    Priority.LOW: -4 * 3600.0,
    Priority.NORMAL: 0.0,
    Priority.HIGH: 3600.0,
    Priority.URGENT: 4 * 3600.0,
}


@dataclass(frozen=True)
class Quota:
    """What a project may take; 0 is no limit. `weight` is above 0."""

    max_running_jobs: int = 0
    max_queued_jobs: int = 0
    max_device_hours_a_day: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class Share:
    """What a project may take, and what it has taken: device-seconds. `used_today_s` is of `day`,
    an ISO date in UTC."""

    project: str
    quota: Quota = field(default_factory=Quota)
    pass_s: float = 0.0
    used_s: float = 0.0
    used_today_s: float = 0.0
    day: str = ""

    def charged(self, device_s: float, now: datetime) -> "Share":
        """After so much more training; negative gives back."""
        today = now.date().isoformat()
        before = self.used_today_s if self.day == today else 0.0
        return replace(
            self,
            pass_s=self.pass_s + device_s / self.quota.weight,
            used_s=self.used_s + device_s,
            used_today_s=max(0.0, before + device_s),
            day=today,
        )

    def under(self, quota: Quota, virtual_time_s: float) -> "Share":
        """With another quota, now that the queue has come so far. What the project is ahead or
        behind is so many device-seconds, and stays so many: if its weight changes, its distance
        does (Waldspurger and Weihl, 4.2). Else what was charged in advance at one weight would be
        given back at the other."""
        distance_s = (self.pass_s - virtual_time_s) * self.quota.weight / quota.weight
        return replace(self, quota=quota, pass_s=virtual_time_s + distance_s)

    def used_on(self, now: datetime) -> float:
        """Device-seconds of the day of `now`."""
        return self.used_today_s if self.day == now.date().isoformat() else 0.0

    def may_run_another(self, running_jobs: int, now: datetime) -> bool:
        quota = self.quota
        if quota.max_running_jobs and running_jobs >= quota.max_running_jobs:
            return False
        limit_s = quota.max_device_hours_a_day * 3600
        return not limit_s or self.used_on(now) < limit_s

    def after_joining(self, virtual_time_s: float) -> "Share":
        """Once it has work again, and the queue has come so far: the time that it asked for nothing
        is no claim to more than the others have from now on."""
        return replace(self, pass_s=max(self.pass_s, virtual_time_s))


@dataclass(frozen=True)
class Waiting:
    """A line, when its first job that is ready was created, and since when that is ready."""

    line: Line
    since: datetime
    ready_since: datetime


@dataclass(frozen=True)
class Demand:
    """All that waits, with what is known of the projects. `running_jobs` are counts by project."""

    waiting: tuple[Waiting, ...]
    shares: Mapping[str, Share]
    running_jobs: Mapping[str, int]

    def share(self, project: str) -> Share:
        return self.shares.get(project) or Share(project)

    def turns(self, now: datetime) -> list[Waiting]:
        """Those that may run another job, whose turn it is first."""
        projects = {one.line.project for one in self.waiting}
        allowed = {project for project in projects if self.is_allowed(project, now)}
        return sorted((one for one in self.waiting if one.line.project in allowed), key=self._place)

    def virtual_time_s(self, line: Line) -> float:
        """How far the queue has come when it serves this line: a credit brings nobody forward."""
        share = self.share(line.project)
        return min(share.pass_s, self.rank(line.project, line.priority))

    def is_allowed(self, project: str, now: datetime) -> bool:
        return self.share(project).may_run_another(self.running_jobs.get(project, 0), now)

    def rank(self, project: str, priority: Priority) -> float:
        """The lower, the earlier."""
        return self.share(project).pass_s - CREDIT_S[priority]

    def _place(self, one: Waiting) -> tuple[float, int, datetime, str]:
        line = one.line
        return (
            self.rank(line.project, line.priority),
            -line.priority.rank,
            one.since,
            line.key,
        )


def due_charge_s(charged_s: float, elapsed: timedelta, device_count: int) -> float:
    """What is to be charged in advance, now that an attempt has lasted so long; 0: nothing yet."""
    quantum_s = QUANTUM_S * device_count
    used_s = elapsed.total_seconds() * device_count
    if used_s < charged_s:
        return 0.0
    return quantum_s * (1 + (used_s - charged_s) // quantum_s)


def settlement_s(charged_s: float, elapsed: timedelta, device_count: int) -> float:
    """What an attempt that has ended is still to be charged; negative: to be given back."""
    return elapsed.total_seconds() * device_count - charged_s
