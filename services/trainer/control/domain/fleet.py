"""The nodes that are there, and what the runs on them taught the estimates."""

import asyncio
from collections.abc import Sequence

from services.trainer.control.domain.estimation.devices import Corrections, Device
from services.trainer.control.domain.estimation.residuals import LAST_RUNS, corrections
from services.trainer.control.domain.nodes import LATELY, Offer, largest
from services.trainer.control.domain.ports import Store


class Fleet:
    """`Devices` and `Calibration` of the estimates, and `Offers` of the drafts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looking: asyncio.Task[Sequence[Offer]] | None = None

    async def there(self) -> Sequence[Offer]:
        """Calls that come together share one look at the database."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> Sequence[Offer]:
        async with self._store.reading() as unit:
            return await unit.nodes.there(await unit.now() - LATELY)

    async def largest(self) -> Device | None:
        return largest(await self.there())

    async def of(self, method: str, device_model: str) -> Corrections:
        """None of a device without a name: all such have nothing else in common."""
        if not device_model:
            return Corrections()
        async with self._store.reading() as unit:
            return corrections(await unit.residuals.last(method, device_model, LAST_RUNS))
