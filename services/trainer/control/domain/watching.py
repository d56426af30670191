"""Following a job's history: a replay from the database that goes on live.

All that watchers know comes from the database, so none can see a gap, a duplicate or an event
that was never committed. Watchers at the same place share one query, and between two pages none
holds a connection: a slow one costs nothing.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial

import structlog
from structlog.typing import FilteringBoundLogger

from services.common.faults import InvalidArgument, Unavailable
from services.trainer.control.domain.errors import existing
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.ports import HistoryEntry, Store
from services.trainer.control.domain.signals import Signals
from services.trainer.control.domain.states import FINAL

_PAGE_EVENTS = 256

log: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Page:
    """A piece of a history. `last` says that nothing will ever come after it."""

    entries: tuple[HistoryEntry, ...]
    last: bool


_Place = tuple[TuningJobName, int, int]
"""A job, a sequence, and how many times the job's bell had rung: what is read at one place after
one ring is the same for all who ask."""


class Watching:
    """Tells histories. `poll_s` is how soon it sees what another replica wrote."""

    def __init__(self, store: Store, signals: Signals, poll_s: float = 1.0) -> None:
        self._store = store
        self._signals = signals
        self._poll_s = poll_s
        self._reads: dict[_Place, asyncio.Task[_Page]] = {}

    async def watch(self, name: TuningJobName, after_sequence: int) -> AsyncGenerator[HistoryEntry]:
        """Every event with a higher sequence, in order, until the final one.

        Raises TuningJobNotFound; InvalidArgument for a negative place.
        """
        if after_sequence < 0:
            raise InvalidArgument.of("after_sequence", "must not be negative", "OUT_OF_RANGE")
        after = after_sequence
        with self._signals.following(name) as bell:
            while True:
                grown = bell.listen()
                page = await self._shared_page((name, after, bell.rings))
                for entry in page.entries:
                    yield entry
                    after = entry.sequence
                if page.last:
                    return
                if not page.entries:
                    await grown.wait()

    async def run(self) -> None:
        """Rings for the followed jobs that another replica wrote to; runs until cancelled."""
        seen: dict[TuningJobName, int] = {}
        try:
            while True:
                await asyncio.sleep(self._poll_s)
                seen = await self._rung(seen)
        finally:
            await asyncio.gather(*self._reads.values(), return_exceptions=True)

    async def _rung(self, seen: dict[TuningJobName, int]) -> dict[TuningJobName, int]:
        names = self._signals.followed()
        if not names:
            return {}
        try:
            async with self._store.reading() as unit:
                counts = dict(await unit.jobs.event_counts(names))
        except Unavailable as fault:
            log.warning("watching.paused", reason=fault.reason)
            return seen
        for name, count in counts.items():
            if seen.get(name) != count:
                self._signals.changed(name)
        return counts

    async def _shared_page(self, place: _Place) -> _Page:
        """One query for all who ask for the same; it goes on if one of them leaves."""
        read = self._reads.get(place)
        if read is None:
            read = asyncio.create_task(self._page(place))
            self._reads[place] = read
            read.add_done_callback(partial(self._forget, place))
        return await asyncio.shield(read)

    def _forget(self, place: _Place, read: asyncio.Task[_Page]) -> None:
        del self._reads[place]
        if not read.cancelled():
            read.exception()  # everybody who asked may have left

    async def _page(self, place: _Place) -> _Page:
        name, after, _ = place
        async with self._store.reading() as unit:
            job = existing(name, await unit.jobs.find(name))
            entries = tuple(await unit.history.after(name, after, _PAGE_EVENTS))
        reached = entries[-1].sequence if entries else after
        return _Page(entries, last=job.state in FINAL and reached >= job.event_count)
