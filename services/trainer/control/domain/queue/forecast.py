"""When waiting jobs will start: the queue's own rules, played on many times over the nodes that are
there, each time with other durations and other jobs to come.

What of the jobs is not known is drawn: how long they take from what like jobs took, what comes from
what came of late. Of a job's starts in all the draws, the 10th and the 90th percentile are told.
"""

import heapq
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from itertools import count
from random import Random

from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.queue.experience import Experience, Kind, Past
from services.trainer.control.domain.queue.lines import Line
from services.trainer.control.domain.queue.requirements import Priority
from services.trainer.control.domain.queue.shares import CREDIT_S, Share

DRAWS = 40
STARTS = 400
"""A draw ends after so many: what is behind them in a line goes on at the line's pace."""
_EVENTS = 3 * STARTS
"""Nor does it go on for longer than this, where some line does not move or more comes than goes."""
LOOKED_BACK = timedelta(hours=1)
"""What came in this time comes again, in another order and not just as often."""
A_DAY = timedelta(days=1)
"""More or less than was usual in this time does not stay for long."""

_RETURN_S = 4 * 3600.0
"""The time after which 1/e of what is unusual is left: a day has its ebb and flow."""
_PACE_MEAN, _PACE_SIGMA = 0.5, 0.9
"""Of the logarithm of a line's pace behind what a draw reached, by that before, where all turns are
those of others: found on simulated days, on which lines begin slowly, behind all that have a better
claim, and go on faster."""
_LOWEST, _HIGHEST = 0.1, 0.9
_RATE_SIGMA = 0.6
_ETA_SIGMA = 0.1


@dataclass(frozen=True)
class Queued:
    """A line: how many wait there, and of the first of them what they are."""

    line: Line
    jobs: int
    first: tuple[tuple[str, Kind], ...]


@dataclass(frozen=True)
class Held:
    """A job that a node holds. `eta_s`: what it said itself, None if it did not."""

    node: str
    kind: Kind
    elapsed_s: float
    eta_s: float | None


@dataclass(frozen=True)
class Outlook:
    """All that is known of the queue at a moment."""

    now: datetime
    queued: tuple[Queued, ...]
    held: tuple[Held, ...]
    offers: tuple[Offer, ...]
    shares: Mapping[str, Share]
    past: tuple[Past, ...]
    came: tuple[Kind, ...]
    virtual_time_s: float = 0.0
    usual_rate: float | None = None
    """Of jobs that came, a second, over a day. None: not known."""


@dataclass(frozen=True)
class QueuePlace:
    """1 is next. Times are None where they can not be told."""

    position: int
    earliest: datetime | None = None
    latest: datetime | None = None


@dataclass(frozen=True)
class LineStarts:
    """Seconds from now at which the jobs of a line started, first to last, in each draw; how long
    the draws went on, and how many times as fast the line goes on behind that."""

    draws: tuple[tuple[float, ...], ...]
    ends: tuple[float, ...]
    paces: tuple[float, ...]

    def at(self, index: int) -> list[float]:
        """In ascending order; infinite where the line does not move."""
        draws = zip(self.draws, self.ends, self.paces, strict=True)
        return sorted(_reached(starts, end, pace, index) for starts, end, pace in draws)

    def percentile(self, index: int, share: float) -> float:
        found = self.at(index)
        place = share * (len(found) - 1)
        low, high = found[math.floor(place)], found[math.ceil(place)]
        return low if low == high else low + (place - math.floor(place)) * (high - low)

    @cached_property
    def medians(self) -> list[float]:
        """Of the jobs that all draws reached."""
        reached = min((len(starts) for starts in self.draws), default=0)
        return [self.percentile(index, 0.5) for index in range(reached)]

    def started_before(self, seconds: float, jobs: int) -> int:
        """How many of the line's jobs."""
        medians = self.medians
        if not medians or seconds <= medians[-1]:
            return min(jobs, bisect_left(medians, seconds))
        if not math.isfinite(seconds):
            return jobs
        pace = (medians[-1] or 1.0) / len(medians)
        return min(jobs, len(medians) + int((seconds - medians[-1]) / pace))


@dataclass(frozen=True)
class Forecast:
    """The starts of all that waited at `now`."""

    now: datetime
    queued: Mapping[str, Queued]
    starts: Mapping[str, LineStarts]
    indices: Mapping[str, int]

    def place(self, line: Line, index: int) -> QueuePlace:
        """Of the job that so many of its line are ahead of."""
        starts = self.starts.get(line.key)
        if starts is None:
            return QueuePlace(index + 1)
        median = starts.percentile(index, 0.5)
        others = sum(
            self.starts[key].started_before(median, queued.jobs)
            for key, queued in self.queued.items()
            if key != line.key and key in self.starts
        )
        return QueuePlace(
            index + 1 + others,
            self._time(starts.percentile(index, _LOWEST)),
            self._time(starts.percentile(index, _HIGHEST)),
        )

    def _time(self, seconds: float) -> datetime | None:
        return self.now + timedelta(seconds=seconds) if seconds < 1e9 else None


def forecast(outlook: Outlook, draws: int = DRAWS) -> Forecast:
    """Seeded by the outlook: the same one gives the same forecast."""
    queued = {one.line.key: one for one in outlook.queued}
    indices = {name: i for one in outlook.queued for i, (name, _) in enumerate(one.first)}
    experience = Experience(outlook.past)
    if not experience or not outlook.offers:
        return Forecast(outlook.now, queued, {}, indices)
    random = Random(outlook.now.timestamp())
    ended = [_Draw(outlook, experience, random).played() for _ in range(draws)]
    starts = {
        key: LineStarts(
            tuple(tuple(one.starts[place]) for one in ended),
            tuple(one.now for one in ended),
            tuple(one.pace(place) for one in ended),
        )
        for place, key in enumerate(queued)
    }
    return Forecast(outlook.now, queued, starts, indices)


def _reached(starts: Sequence[float], end: float, pace: float, index: int) -> float:
    if index < len(starts):
        return starts[index]
    if not starts:
        return math.inf
    more = (index + 1 - len(starts)) / len(starts)
    return max(end, 1.0) * (1 + more / pace)


@dataclass
class _Project:
    """Its pass grows with the devices that it holds; `pass_s` is that of `time`."""

    share: Share
    pass_s: float
    time: float = 0.0
    devices: int = 0
    jobs: int = 0

    def at(self, now: float) -> float:
        return self.pass_s + self.devices * (now - self.time) / self.share.quota.weight

    def moves(self, now: float, jobs: int, devices: int) -> None:
        self.pass_s, self.time = self.at(now), now
        self.jobs += jobs
        self.devices += devices

    @property
    def is_full(self) -> bool:
        limit = self.share.quota.max_running_jobs
        return bool(limit) and self.jobs >= limit


@dataclass
class _Row:
    """A line as it is played: the jobs that waited at the beginning are counted down, those that
    come are behind them."""

    line: Line
    project: _Project
    waited: deque[float]
    more: int
    came: deque[float]
    kinds: Sequence[Kind]

    @property
    def waits(self) -> bool:
        return bool(self.waited or self.more or self.came)


@dataclass
class _Site:
    """A node: its free devices, for how many more jobs it has engines, and what it can train."""

    devices: int
    engines: int
    rows: list[_Row]


@dataclass(frozen=True)
class _Run:
    """A job that is trained at a site, since `begun` and until `end`."""

    site: _Site | None
    row: _Row
    begun: float
    end: float


class _Draw:
    """One course that things may take."""

    def __init__(self, outlook: Outlook, experience: Experience, random: Random) -> None:
        self._outlook, self._experience, self._random = outlook, experience, random
        self.now = 0.0
        self._started = self._started_later = 0
        self._virtual_time_s = outlook.virtual_time_s
        self._numbers = count()
        self._events: list[tuple[float, int, _Run | Kind]] = []
        self._runs: dict[int, _Run] = {}
        self._projects: dict[str, _Project] = {}
        self._rows = {one.line.key: self._row(one) for one in outlook.queued}
        self._known = list(self._rows.values())
        self.starts: list[list[float]] = [[] for _ in self._known]
        self._places = {id(row): place for place, row in enumerate(self._known)}
        for kind in outlook.came:
            self._rows.setdefault(kind.line.key, self._row(Queued(kind.line, 0, ())))
        self._sites = self._begun()
        self._drift = self._random.lognormvariate(-(_RATE_SIGMA**2) / 2, _RATE_SIGMA)
        self._lately = self._drawn_rate()

    def played(self) -> "_Draw":
        for site in self._sites:
            self._fill(site)
        self._expect_another()
        left = min(STARTS, sum(one.jobs for one in self._outlook.queued))
        for _ in range(_EVENTS):
            if not self._events or self._started >= left:
                break
            self.now, number, event = heapq.heappop(self._events)
            if isinstance(event, Kind):
                self._comes(event)
            elif self._runs.pop(number, None) is not None:
                self._ends(event)
        return self

    def pace(self, place: int) -> float:
        """How many times as fast the line in this place goes on behind the starts of this draw."""
        turns = self._started + self._started_later
        others = 1 - len(self.starts[place]) / turns if turns else 0.0
        return self._random.lognormvariate(_PACE_MEAN * others, _PACE_SIGMA * others)

    def _row(self, queued: Queued) -> _Row:
        kinds = [kind for _, kind in queued.first]
        waited = deque(self._experience.duration_s(kind, self._random) for kind in kinds)
        more = queued.jobs - len(kinds)
        project = self._project(queued.line.project)
        return _Row(queued.line, project, waited, more, deque(), kinds)

    def _project(self, name: str) -> _Project:
        if name not in self._projects:
            share = self._outlook.shares.get(name, Share(name))
            self._projects[name] = _Project(share, share.pass_s)
        return self._projects[name]

    def _begun(self) -> list[_Site]:
        """With what is running now."""
        sites: dict[str, _Site] = {}
        held_devices: dict[str, int] = {}
        for held in self._outlook.held:
            wanted = held.kind.line.requirements.device_count
            held_devices[held.node] = held_devices.get(held.node, 0) + wanted
        for offer in self._outlook.offers:
            told = offer.capabilities
            devices = max(
                offer.free_devices,
                told.device_count if told else 0,
                held_devices.get(offer.node, 0),
            )
            whole = replace(offer, free_devices=devices)
            rows = [row for row in self._rows.values() if whole.can_train(row.line)]
            sites[offer.node] = _Site(devices, max(1, told.engine_count if told else 1), rows)
        for held in self._outlook.held:
            self._run(sites.get(held.node), self._row_of(held.kind), self._left_s(held), held)
        return list(sites.values())

    def _row_of(self, kind: Kind) -> _Row:
        row = self._rows.get(kind.line.key)
        return row or self._row(Queued(kind.line, 0, ()))

    def _left_s(self, held: Held) -> float:
        if held.eta_s is not None:
            return max(0.0, held.eta_s) * math.exp(self._random.gauss(0.0, _ETA_SIGMA))
        return self._experience.left_s(held.kind, held.elapsed_s, self._random)

    def _run(self, site: _Site | None, row: _Row, left_s: float, held: Held | None = None) -> None:
        devices = row.line.requirements.device_count
        row.project.moves(self.now, 1, devices)
        if site is not None:
            site.devices -= devices
            site.engines -= 1
        begun = self.now - (held.elapsed_s if held else 0.0)
        run = _Run(site, row, begun, self.now + left_s)
        number = next(self._numbers)
        self._runs[number] = run
        heapq.heappush(self._events, (run.end, number, run))

    def _ends(self, run: _Run) -> None:
        devices = run.row.line.requirements.device_count
        was_full = run.row.project.is_full
        run.row.project.moves(self.now, -1, -devices)
        if run.site is not None:
            run.site.devices += devices
            run.site.engines += 1
            self._fill(run.site)
        if was_full:
            for site in self._sites:
                self._fill(site)

    def _fill(self, site: _Site) -> None:
        """Gives it the jobs whose turn it is, for as long as it has room."""
        while site.engines > 0 and (row := self._next_for(site)) is not None:
            come_to = min(self._rank(row)[0], row.project.at(self.now))
            self._virtual_time_s = max(self._virtual_time_s, come_to)
            self._run(site, row, self._taken(row))

    def _next_for(self, site: _Site) -> _Row | None:
        able = [
            row
            for row in site.rows
            if row.waits
            and row.line.requirements.device_count <= site.devices
            and not row.project.is_full
        ]
        return min(able, key=self._rank, default=None)

    def _rank(self, row: _Row) -> tuple[float, int]:
        priority = row.line.priority
        return row.project.at(self.now) - CREDIT_S[priority], -priority.rank

    def _taken(self, row: _Row) -> float:
        """The duration of the first of the row's jobs, which starts."""
        if not row.waited and not row.more:
            self._started_later += 1
            return row.came.popleft()
        self._started += 1
        self.starts[self._places[id(row)]].append(self.now)
        if row.waited:
            return row.waited.popleft()
        row.more -= 1
        return self._experience.duration_s(self._random.choice(row.kinds), self._random)

    def _drawn_rate(self) -> float:
        """Of jobs that came of late, a second."""
        came = len(self._outlook.came)
        if not came:
            return 0.0
        return self._random.gammavariate(came, 1.0) / LOOKED_BACK.total_seconds()

    def _rate(self) -> float:
        """Of jobs that come now: from what it was of late back to what is usual."""
        usual = self._outlook.usual_rate
        if usual is None:
            return self._lately * self._drift
        unusual = (self._lately - usual) * math.exp(-self.now / _RETURN_S)
        return (usual + unusual) * self._drift

    def _expect_another(self) -> None:
        if self._outlook.came and (rate := self._rate()) > 0:
            kind = self._random.choice(self._outlook.came)
            time = self.now + self._random.expovariate(rate)
            heapq.heappush(self._events, (time, next(self._numbers), kind))

    def _comes(self, kind: Kind) -> None:
        self._expect_another()
        row = self._rows[kind.line.key]
        self._joins(row.project)
        row.came.append(self._experience.duration_s(kind, self._random))
        for site in self._sites:
            if site.engines > 0:
                self._fill(site)
        if row.came and row.line.priority is Priority.URGENT:
            self._make_room(row)

    def _joins(self, project: _Project) -> None:
        """As `Share.after_joining`."""
        if project.jobs or any(row.waits for row in self._rows.values() if row.project is project):
            return
        project.pass_s = max(project.at(self.now), self._virtual_time_s)
        project.time = self.now

    def _make_room(self, row: _Row) -> None:
        """As `preemption.victims`: the one that yields is first in its line again."""
        rank = self._rank(row)
        yielding = [
            (run.row.line.priority.rank, -run.begun, number)
            for number, run in self._runs.items()
            if run.site is not None
            and row in run.site.rows
            and run.row.line.priority is not Priority.URGENT
            and rank < self._rank(run.row)
        ]
        if not yielding:
            return
        number = min(yielding)[2]
        run = self._runs.pop(number)
        run.row.came.appendleft(run.end - self.now)
        self._ends(run)
