"""What nodes say of themselves, and what their runs took."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import or_
from sqlmodel import col, select, update

from services.common.store import Session, insert_new
from services.trainer.control.adapters.tables import JobRow, NodeRow, ResidualRow
from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.estimation.residuals import LEAST_RATIO, MOST_RATIO, Residual
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.settings import Backend
from services.trainer.control.domain.states import HELD

_DIRECT = {"synchronize_session": False}


class SqlNodes:
    """The nodes of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def find(self, name: str) -> Offer | None:
        row = (await self._session.exec(select(NodeRow).where(NodeRow.name == name))).one_or_none()
        return None if row is None else _offer(row)

    async def put(self, offer: Offer) -> None:
        values = _values(offer)
        if not await insert_new(self._session, NodeRow, {"name": offer.node, **values}):
            await self._session.exec(
                update(NodeRow).where(col(NodeRow.name) == offer.node).values(values),
                execution_options=_DIRECT,
            )

    async def there(self, since: datetime) -> Sequence[Offer]:
        busy = select(JobRow.node).where(col(JobRow.state).in_([state.value for state in HELD]))
        there = or_(col(NodeRow.update_time) >= since, col(NodeRow.name).in_(busy))
        rows = await self._session.exec(select(NodeRow).where(there))
        return [_offer(row) for row in rows]


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
        "update_time": offer.time,
    }


def _offer(row: NodeRow) -> Offer:
    backends = frozenset(Backend(word) for word in json.loads(row.backends))
    return Offer(row.name, _device(row.device), backends, row.update_time)


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
