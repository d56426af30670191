"""How long the common tables remember."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, delete

from services.common.store import Session, Store, database_now
from services.common.tables import InboxRow, OutboxRow, RequestRow


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


async def _delete(store: Store[Session], time: Any, before: datetime) -> None:
    async with store.writing() as session:
        await session.exec(delete(time.class_).where(time < before))
