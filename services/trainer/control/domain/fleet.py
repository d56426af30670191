"""The nodes that are there, and what the runs on them taught the estimates."""

from collections.abc import Sequence

from services.trainer.control.domain.devices import Corrections, Device
from services.trainer.control.domain.nodes import LATELY, Offer, largest
from services.trainer.control.domain.ports import Store
from services.trainer.control.domain.residuals import LAST_RUNS, corrections


class Fleet:
    """`Devices` and `Calibration` of the estimates, and `Offers` of the drafts."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def there(self) -> Sequence[Offer]:
        async with self._store.reading() as unit:
            return await unit.nodes.there(await unit.now() - LATELY)

    async def largest(self) -> Device | None:
        return largest(await self.there())

    async def of(self, method: str, device_model: str) -> Corrections:
        async with self._store.reading() as unit:
            return corrections(await unit.residuals.last(method, device_model, LAST_RUNS))
