"""How long the common tables remember."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlmodel import col, delete

from services.common.faults import Unavailable
from services.common.store import Session, Store, database_now
from services.common.tables import InboxRow, OutboxRow, RequestRow

_log = structlog.get_logger()


@dataclass(frozen=True)
class Retention:
    """`received` outlives the stream (7 days), or an old redelivery would have its effect again.
    `requests` is promised to callers as at least 24 hours."""

    published: timedelta = timedelta(days=1)
    received: timedelta = timedelta(days=14)
    requests: timedelta = timedelta(days=7)


async def sweep(store: Store[Session], retention: Retention) -> None:
    """Deletes what is older, one short transaction per table."""
    async with store.reading() as session:
        now = await database_now(session)
    await _delete(store, col(OutboxRow.published_at), now - retention.published)
    await _delete(store, col(InboxRow.received_at), now - retention.received)
    await _delete(store, col(RequestRow.created_at), now - retention.requests)


async def sweeping(
    store: Store[Any], retention: Retention | None = None, *, every_s: float = 3600.0
) -> None:
    """Sweeps until it is cancelled, through outages: what a service without a Relay, which does
    it too, runs in its background."""
    sessions = store.sharing(_session, announces=False)
    while True:
        try:
            await sweep(sessions, retention or Retention())
        except Unavailable as fault:
            _log.warning("sweep.skipped", reason=fault.reason)
        await asyncio.sleep(every_s)


def _session(session: Session) -> Session:
    return session


async def _delete(store: Store[Session], time: Any, before: datetime) -> None:
    async with store.writing() as session:
        await session.exec(delete(time.class_).where(time < before))
