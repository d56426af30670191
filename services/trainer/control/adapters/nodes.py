"""What nodes say of themselves, and what their runs took."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, exists, not_, or_
from sqlmodel import col, delete, select, update
from sqlmodel.sql.expression import SelectOfScalar

from services.common.store import Session, insert_new
from services.trainer.control.adapters.tables import (
    AttemptRow,
    JobRow,
    NodeRow,
    ResidualRow,
    in_states,
)
from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.estimation.residuals import LEAST_RATIO, MOST_RATIO, Residual
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.nodes import Capabilities, Node, Offer, Schedule
from services.trainer.control.domain.settings import Backend
from services.trainer.control.domain.states import HELD

_NODES = NodeRow.metadata.tables["nodes"]
_FRESH = {"populate_existing": True}
_DIRECT = {"synchronize_session": False}
_HELD = in_states(HELD)
_HOLD = select(*_NODES.c).where(_NODES.c.name == bindparam("of")).with_for_update()


class SqlNodes:
    """The nodes of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def find(self, name: str) -> Offer | None:
        row = (await self._session.exec(select(NodeRow).where(NodeRow.name == name))).one_or_none()
        return None if row is None else _offer(row)

    async def put(self, offer: Offer) -> None:
        values = _values(offer)
        new = {"name": offer.node, "schedule": Schedule.OPEN.value, **values}
        if not await insert_new(self._session, NodeRow, new):
            await self._session.exec(
                update(NodeRow).where(col(NodeRow.name) == offer.node).values(values),
                execution_options=_DIRECT,
            )

    async def there(self, since: datetime) -> Sequence[Offer]:
        busy = select(JobRow.node).where(_HELD)
        there = or_(col(NodeRow.update_time) >= since, col(NodeRow.name).in_(busy))
        is_open = col(NodeRow.schedule) == Schedule.OPEN.value
        rows = await self._session.exec(select(NodeRow).where(there, is_open))
        return [_offer(row) for row in rows]

    async def named(self, names: Collection[str]) -> Mapping[str, Offer]:
        theirs = col(NodeRow.name).in_(names), col(NodeRow.schedule) == Schedule.OPEN.value
        rows = await self._session.exec(select(NodeRow).where(*theirs))
        return {row.name: _offer(row) for row in rows}

    async def schedule(self, name: str) -> Schedule:
        wanted = select(NodeRow.schedule).where(NodeRow.name == name)
        return Schedule((await self._session.exec(wanted)).one_or_none() or Schedule.OPEN)

    async def hold(self, name: str) -> tuple[Offer | None, Schedule]:
        connection = await self._session.connection()
        row = (await connection.execute(_HOLD, {"of": name})).one_or_none()
        return (None, Schedule.OPEN) if row is None else (_offer(row), Schedule(row.schedule))

    async def set_schedule(self, name: str, schedule: Schedule) -> None:
        row = update(NodeRow).where(col(NodeRow.name) == name).values(schedule=schedule.value)
        await self._session.exec(row, execution_options=_DIRECT)

    async def forget(self, before: datetime) -> Sequence[str]:
        since = or_(col(AttemptRow.end_time).is_(None), col(AttemptRow.end_time) >= before)
        busy = exists().where(col(AttemptRow.node) == col(NodeRow.name), since)
        gone = delete(NodeRow).where(col(NodeRow.update_time) < before, not_(busy))
        names = await self._session.exec(
            gone.returning(col(NodeRow.name)), execution_options=_DIRECT
        )
        return sorted(names.scalars())

    async def node(self, name: str, since: datetime) -> Node | None:
        wanted = select(NodeRow).where(NodeRow.name == name)
        found = await self._nodes(wanted, since)
        return found[0] if found else None

    async def listed(self, after: str, limit: int, since: datetime) -> Sequence[Node]:
        behind = select(NodeRow).where(col(NodeRow.name) > after).order_by(col(NodeRow.name))
        return await self._nodes(behind.limit(limit), since)

    async def _nodes(self, wanted: SelectOfScalar[NodeRow], since: datetime) -> Sequence[Node]:
        rows = list(await self._session.exec(wanted, execution_options=_FRESH))
        names = [row.name for row in rows]
        held = select(JobRow.node, JobRow.name).where(_HELD, col(JobRow.node).in_(names))
        jobs: dict[str, list[TuningJobName]] = defaultdict(list)
        for node, job in await self._session.exec(held.order_by(col(JobRow.name))):
            jobs[node].append(TuningJobName.parse(job))
        return [_node(row, jobs[row.name], since) for row in rows]


class SqlResiduals:
    """What the runs took that one transaction sees."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, residual: Residual) -> None:
        values = {**asdict(residual), "job": str(residual.job)}
        self._session.add(ResidualRow.model_validate(values))

    async def last(self, method: str, device_model: str, limit: int) -> Sequence[Residual]:
        of_these = (
            col(ResidualRow.method) == method,
            col(ResidualRow.device_model) == device_model,
        )
        jobs = (
            select(ResidualRow.job)
            .where(*of_these, col(ratio).between(LEAST_RATIO, MOST_RATIO))
            .order_by(col(ResidualRow.time).desc(), col(ResidualRow.job))
            .limit(limit)
            for ratio in (ResidualRow.peak_ratio, ResidualRow.duration_ratio)
        )
        wanted = (
            select(ResidualRow)
            .where(or_(*(col(ResidualRow.job).in_(one) for one in jobs)))
            .order_by(col(ResidualRow.time).desc(), col(ResidualRow.job))
        )
        return [_residual(row) for row in await self._session.exec(wanted)]


def _values(offer: Offer) -> dict[str, Any]:
    return {
        "device": json.dumps(asdict(offer.device)) if offer.device else None,
        "backends": json.dumps(sorted(offer.backends)),
        "labels": json.dumps(dict(offer.labels)),
        "free_devices": offer.free_devices,
        "capabilities": json.dumps(asdict(offer.capabilities)) if offer.capabilities else None,
        "update_time": offer.time,
    }


def _node(row: NodeRow, jobs: Sequence[TuningJobName], since: datetime) -> Node:
    there = bool(jobs) or row.update_time >= since
    return Node(_offer(row), Schedule(row.schedule), tuple(jobs), there)


def _offer(row: NodeRow | Row[Any]) -> Offer:
    backends = frozenset(Backend(word) for word in json.loads(row.backends))
    return Offer(
        node=row.name,
        device=_device(row.device),
        backends=backends,
        time=row.update_time,
        labels=json.loads(row.labels),
        free_devices=row.free_devices,
        capabilities=_capabilities(row.capabilities),
    )


def _capabilities(text: str | None) -> Capabilities | None:
    if text is None:
        return None
    kept: dict[str, Any] = json.loads(text)
    for name in ("tested_methods", "failed_methods"):
        kept[name] = tuple(kept[name])
    return Capabilities(**kept)


def _device(text: str | None) -> Device | None:
    if text is None:
        return None
    kept: dict[str, Any] = json.loads(text)
    kind = DeviceKind(kept.pop("kind"))
    return Device(kind, **kept)


def _residual(row: ResidualRow) -> Residual:
    return Residual(
        job=TuningJobName.parse(row.job),
        method=row.method,
        device_model=row.device_model,
        peak_ratio=row.peak_ratio,
        duration_ratio=row.duration_ratio,
        time=row.time,
    )
