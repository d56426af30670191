"""Events that commit with the change they tell of, and the relay that publishes them.

There is no moment at which the change is durable and its event can be lost, nor the reverse.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col, select, update

from services.common.bus import MAX_PAYLOAD_BYTES, Bus, require_subject, retry_delays
from services.common.columns import DatabaseNow
from services.common.failpoints import failpoint
from services.common.faults import Unavailable
from services.common.retention import Retention, sweep
from services.common.store import Session, Store, connected, insert_new
from services.common.tables import OutboxRow

_BATCH_ROWS = 64
_SWEEP_INTERVAL_S = 3600.0
_RELAY_LOCK = 0x616E6E65616C01  # any number, the same in all replicas; locks are per database

_log = structlog.get_logger()


class Outbox:
    """The events of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, message_id: str, subject: str, payload: bytes) -> None:
        """Publishes `payload` if and when the transaction commits.

        `message_id` follows from what happened (`<job>:<attempt>:<transition>`): an event that
        was added before under the same id is not added again. Raises ValueError for what could
        never be published.
        """
        require_subject(subject)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"{message_id} has {len(payload)} bytes; put them into a blob")
        row = {
            "message_id": message_id,
            "subject": subject,
            "payload": payload,
            "created_at": DatabaseNow(),
        }
        await insert_new(self._session, OutboxRow, row)


class Relay:
    """Publishes a database's outbox in order, and sweeps its old rows every hour.

    One relay per database is active; on PostgreSQL an advisory lock elects it among replicas. It
    goes on through outages of the bus and of the database, and repeats after a crash what it had
    not marked as published: the stream knows the message id and stores it once.
    """

    def __init__(
        self,
        store: Store[Any],
        bus: Bus,
        *,
        poll_s: float = 1.0,
        retention: Retention | None = None,
    ) -> None:
        self._store = store.sharing(_session, announces=False)
        self._bus = bus
        self._poll_s = poll_s
        self._retention = retention or Retention()
        self._delays = retry_delays()
        self._wake = asyncio.Event()
        store.on_commit(self._wake.set)

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            try:
                async with self._elected() as connection:
                    if connection is not None:
                        await self._relay(connection)
            except Unavailable as fault:
                _log.warning("relay.paused", reason=fault.reason)
            await asyncio.sleep(next(self._delays))

    @asynccontextmanager
    async def _elected(self) -> AsyncGenerator[AsyncConnection | None]:
        """A connection that holds the relay's lock as long as it lives, or None if another one
        does. It also reads the outbox, so that a relay that lost its lock notices."""
        async with connected(self._store.engine) as connection:
            try:
                yield connection if await _lock(connection) else None
            finally:
                await connection.invalidate()  # closed rather than pooled: the lock goes with it

    async def _relay(self, connection: AsyncConnection) -> None:
        time_s = asyncio.get_running_loop().time
        sweep_at = time_s()
        while True:
            self._wake.clear()
            while rows := await _pending(connection):
                await self._publish(rows)
            if time_s() >= sweep_at:
                await sweep(self._store, self._retention)
                sweep_at = time_s() + _SWEEP_INTERVAL_S
            await self._sleep()

    async def _publish(self, rows: Sequence[OutboxRow]) -> None:
        """One after the other, so that the order holds. What was published is marked even if
        the bus is lost half way."""
        published: list[int | None] = []
        try:
            for row in rows:
                failpoint("outbox.publishing")
                await self._bus.publish(row.subject, row.payload, row.message_id)
                failpoint("outbox.published")
                published.append(row.id)
        finally:
            await self._mark(published)
        failpoint("outbox.marked")
        self._delays = retry_delays()

    async def _mark(self, ids: Sequence[int | None]) -> None:
        if not ids:
            return
        marked = update(OutboxRow).where(col(OutboxRow.id).in_(ids))
        async with self._store.writing() as session:
            await session.exec(marked.values(published_at=DatabaseNow()))

    async def _sleep(self) -> None:
        """Until a commit in this process, or until it is time to look for those of others."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s):
                await self._wake.wait()


def _session(session: Session) -> Session:
    return session


async def _lock(connection: AsyncConnection) -> bool:
    """SQLite's file belongs to one process, so its relay needs no election."""
    if connection.dialect.name == "sqlite":
        return True
    elected = await connection.scalar(select(func.pg_try_advisory_lock(_RELAY_LOCK)))
    await connection.commit()  # the lock is the connection's, not the transaction's
    return bool(elected)


async def _pending(connection: AsyncConnection) -> Sequence[OutboxRow]:
    waiting = select(OutboxRow).where(col(OutboxRow.published_at).is_(None))
    async with Session(connection) as session:
        rows = await session.exec(waiting.order_by(col(OutboxRow.id)).limit(_BATCH_ROWS))
        return rows.all()
