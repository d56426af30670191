"""Forecasts for many callers at once."""

import asyncio
import time
from dataclasses import replace

from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.nodes import LATELY
from services.trainer.control.domain.ports import Store
from services.trainer.control.domain.queue.forecast import Forecast, QueuePlace, forecast
from services.trainer.control.domain.queue.lines import line_of
from services.trainer.control.domain.states import State

_PAUSE = 20.0
"""A forecast is told for at least so many times as long as it took to make."""


class Forecasts:
    """One forecast at a time, told to all who ask while it is new: at most one in `every_s`, and
    none that would cost more than a twentieth of a core."""

    def __init__(self, store: Store, every_s: float = 1.0) -> None:
        self._store = store
        self._every_s = every_s
        self._making: asyncio.Task[Forecast] | None = None
        self._good_until = 0.0

    async def of(self, job: TuningJob) -> QueuePlace | None:
        """None of a job that does not wait in the queue. Raises Unavailable."""
        if job.state is not State.QUEUED:
            return None
        made = await self._current()
        line = line_of(job.name.project, job.spec.settings)
        index = made.indices.get(str(job.name))
        async with self._store.reading() as unit:
            now = await unit.now()
            if index is None:
                index = await unit.queue.ahead(line, job)
        place = made.place(line, index)
        earliest = place.earliest and max(place.earliest, now)
        latest = place.latest and max(place.latest, now)
        return replace(place, earliest=earliest, latest=latest)

    async def _current(self) -> Forecast:
        making = self._making
        if making is None or (making.done() and self._is_old(making)):
            making = self._making = asyncio.create_task(self._made())
        return await asyncio.shield(making)

    def _is_old(self, made: asyncio.Task[Forecast]) -> bool:
        failed = made.cancelled() or made.exception() is not None
        return failed or time.monotonic() >= self._good_until

    async def _made(self) -> Forecast:
        began = time.monotonic()
        async with self._store.reading() as unit:
            now = await unit.now()
            outlook = await unit.queue.outlook(now, await unit.nodes.there(now - LATELY))
        found = await asyncio.to_thread(forecast, outlook)
        ended = time.monotonic()
        self._good_until = ended + max(self._every_s, _PAUSE * (ended - began))
        return found
