"""What callers may do with the quotas of projects."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from pydantic import Field, TypeAdapter

from services.common.faults import InvalidArgument, Violation
from services.common.request_ids import require_uuid4
from services.trainer.control.domain.checks import checked
from services.trainer.control.domain.frozen import Frozen
from services.trainer.control.domain.names import QuotaName
from services.trainer.control.domain.ports import Store, Unit
from services.trainer.control.domain.queue.shares import Quota, Share

_COUNTED = 1_000_000


class GivenQuota(Frozen):
    """The limits of what a caller may set, as the proto's comments state them."""

    max_running_jobs: int = Field(default=0, ge=0)
    max_queued_jobs: int = Field(default=0, ge=0)
    max_device_hours_a_day: float = Field(default=0.0, ge=0)
    weight: float = Field(default=1.0, ge=0.01, le=100)


_GIVEN = TypeAdapter(GivenQuota)


@dataclass(frozen=True)
class QuotaChange:
    """An UpdateQuota, unchecked. `fields` are those that are set; no `paths` mean all."""

    name: str
    fields: Mapping[str, object]
    paths: Collection[str]
    request_id: str


@dataclass(frozen=True)
class QuotaView:
    """A quota with what the project has at the moment, and at which moment."""

    name: QuotaName
    share: Share
    running_jobs: int
    queued_jobs: int
    now: datetime


class Quotas:
    """The use cases of QueueService."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, name: QuotaName) -> QuotaView:
        """Raises Unavailable."""
        async with self._store.reading() as unit:
            shares = await unit.queue.shares([name.project])
            return await _viewed(unit, name, shares.get(name.project, Share(name.project)))

    async def update(self, change: QuotaChange) -> QuotaView:
        """Raises InvalidArgument with every violation."""
        name = QuotaName.parse(change.name, "quota.name")
        if change.request_id:
            require_uuid4(change.request_id)
        _require_known(change.paths)
        given = checked(_GIVEN, change.fields, "quota")
        async with self._store.writing() as unit:
            share = await unit.queue.hold(name.project)
            quota = _changed(share.quota, given, change.paths)
            share = share.under(quota, await unit.queue.served_s())
            await unit.queue.put(share)
            return await _viewed(unit, name, share)


def _changed(quota: Quota, given: GivenQuota, paths: Collection[str]) -> Quota:
    if not paths or "*" in paths:
        return Quota(**given.model_dump())
    wanted = {name: value for name, value in given.model_dump().items() if name in paths}
    return replace(quota, **wanted)


def _require_known(paths: Collection[str]) -> None:
    known = {"*", *asdict(Quota())}
    words = f"cannot be updated; allowed are {', '.join(sorted(known))}"
    unknown = [
        Violation("update_mask", f"{path[:100]!r} {words}", "UNKNOWN_PATH")
        for path in paths
        if path not in known
    ]
    if unknown:
        raise InvalidArgument(unknown)


async def _viewed(unit: Unit, name: QuotaName, share: Share) -> QuotaView:
    running = (await unit.queue.running_jobs()).get(name.project, 0)
    queued = await unit.queue.queued_jobs(name.project, _COUNTED)
    return QuotaView(name, share, running, queued, await unit.now())
