"""Rows: an engine for SQLite or PostgreSQL, and a unit of work over it.

One transaction per intention: whatever is done inside `async with store.writing()` commits
together or not at all, also when the caller is cancelled at any await.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from datetime import datetime
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Connection, Engine, ExceptionContext, Table, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession as Session

from services.common.columns import DatabaseNow
from services.common.columns import UtcDateTime as UtcDateTime
from services.common.failpoints import failpoint
from services.common.faults import Aborted, Unavailable

T = TypeVar("T")
U = TypeVar("U")

_CONNECT_TIMEOUT_S = 5.0
_WRITES = "anneal_writes"
_PG_CONFLICTS = {"40001", "40P01"}
_PG_SERVER_GOES = {"57P01", "57P02", "57P03", "53300"}
_PG_DISK_FULL = "53100"
_PG_CONNECTION_LOST = "08"
"""A class of states: that of a server which goes while it is being connected to."""
_NOW = select(DatabaseNow())


class DatabaseUnavailable(Unavailable):
    """The database does not answer, a lock was not had in time, or its disk is full. Nothing was
    written."""

    def __init__(self) -> None:
        super().__init__("DATABASE_UNAVAILABLE", "the database does not answer; try again")


class WriteConflict(Aborted):
    """A concurrent transaction touched the same rows. Nothing was written."""

    def __init__(self) -> None:
        super().__init__("WRITE_CONFLICT", "a concurrent change interfered; repeat the request")


def open_engine(
    url: str,
    *,
    foreign_keys: bool = True,
    busy_timeout_s: float = 5.0,
    answer_timeout_s: float | None = 20.0,
) -> AsyncEngine:
    """An engine for `sqlite+aiosqlite:///path` (of which the directory exists) or
    `postgresql+asyncpg://…`. Connects on first use.

    SQLite runs in WAL mode with full fsync. Its transactions begin IMMEDIATE where they write:
    a deferred one that turns into a writer fails without waiting for its turn. A lock of another
    process is waited for `busy_timeout_s`. `foreign_keys` off is for migrations. PostgreSQL has
    `answer_timeout_s` for each statement: a network that swallows all closes no connection.
    """
    if make_url(url).get_backend_name() == "postgresql":
        engine = create_async_engine(
            url,
            pool_size=10,
            max_overflow=10,
            pool_pre_ping=True,
            connect_args={"timeout": _CONNECT_TIMEOUT_S, "command_timeout": answer_timeout_s},
        )
        event.listen(engine.sync_engine, "handle_error", _on_silence)
        return engine
    engine = create_async_engine(url)
    pragmas = (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={round(busy_timeout_s * 1000)}",
        f"foreign_keys={'ON' if foreign_keys else 'OFF'}",
    )
    _configure_sqlite(engine.sync_engine, pragmas)
    return engine


class _Cursor(Protocol):
    def execute(self, operation: str, /) -> object: ...
    def close(self) -> None: ...


class _DriverConnection(Protocol):
    isolation_level: str | None

    def cursor(self) -> _Cursor: ...
    def rollback(self) -> None: ...


def _configure_sqlite(engine: Engine, pragmas: tuple[str, ...]) -> None:
    def on_connect(connection: _DriverConnection, _: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by itself
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    def on_invalidate(connection: _DriverConnection, *_: object) -> None:
        # A close leaves the transaction, and its lock, to the garbage collector while a cancelled
        # statement's cursor is still referred to (sqlite3_close_v2).
        connection.rollback()

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    event.listen(engine, "invalidate", on_invalidate)


def _on_silence(context: ExceptionContext) -> None:
    """The driver's timeout is no error of the database's, and its connection is of no more use."""
    if isinstance(context.original_exception, TimeoutError):
        context.is_disconnect = True
        raise DatabaseUnavailable from context.original_exception


def writing_engine(engine: AsyncEngine) -> AsyncEngine:
    """The same engine and pool; its transactions take the write lock when they begin."""
    return engine.execution_options(**{_WRITES: True})


def _reading_engine(engine: AsyncEngine) -> AsyncEngine:
    """The same engine and pool; a transaction sees one snapshot and, on PostgreSQL, cannot write.
    (A SQLite transaction sees one snapshot by itself.)"""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


class Store(Generic[T]):
    """Units of work over one database.

    `build` makes the service's own view of a transaction, usually a frozen dataclass of
    repositories that all use the session it is given. SQLite has one writer at a time: writers
    queue here, in order, rather than in SQLite's busy loop (p99 17 ms instead of 180 ms for 8
    writers). So make one Store per engine and derive others from it with `sharing`.
    """

    def __init__(self, engine: AsyncEngine, build: Callable[[Session], T]) -> None:
        self.engine = engine
        self.build = build
        self._turn: AbstractAsyncContextManager[object] = (
            asyncio.Lock() if engine.dialect.name == "sqlite" else nullcontext()
        )
        self._callbacks: list[Callable[[], None]] = []
        self._readers = async_sessionmaker(
            _reading_engine(engine), class_=Session, expire_on_commit=False
        )
        self._writers = async_sessionmaker(
            writing_engine(engine), class_=Session, expire_on_commit=False
        )

    def sharing(self, build: Callable[[Session], U], *, announces: bool = True) -> "Store[U]":
        """Another view of the same database, taking turns with this one. Its commits run this
        store's callbacks unless it does not `announce` them."""
        other = Store(self.engine, build)
        other._turn = self._turn
        other._callbacks = self._callbacks if announces else []
        return other

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Calls back after each write that committed in this process: to wake the relay and
        watchers. It must be quick and must not raise."""
        self._callbacks.append(callback)

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[T]:
        """A consistent snapshot. Raises DatabaseUnavailable."""
        with translated():
            async with self._readers() as session:
                await _to_the_end(_begin(session))
                yield self.build(session)

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[T]:
        """Commits at the end; an exception or a cancellation inside leaves nothing.

        A cancellation that arrives during the commit takes effect after it, so that it is
        known which of the two happened. Raises DatabaseUnavailable, WriteConflict.
        """
        with translated():
            async with self._turn, self._writers() as session:
                await _to_the_end(_begin(session))
                yield self.build(session)
                failpoint("store.committing")
                await _to_the_end(self._commit(session))

    async def _commit(self, session: Session) -> None:
        await session.commit()
        failpoint("store.committed")
        for callback in self._callbacks:
            callback()

    async def ping(self) -> None:
        """Raises DatabaseUnavailable unless the database answers a query."""
        with translated():
            async with self._readers() as session:
                await _to_the_end(_begin(session))
                await session.exec(select(1))

    async def close(self) -> None:
        await self.engine.dispose()


async def _begin(session: Session) -> None:
    """Connects and begins now, so that a caller's own OSError does not pass for a lost database.
    Runs to its end: a driver that is cancelled while it connects leaves a thread behind."""
    try:
        await session.connection()
    except OSError as error:
        raise DatabaseUnavailable from error


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """A connection outside any unit of work. Raises DatabaseUnavailable."""
    connection = engine.connect()
    with translated():
        try:
            await connection.start()
        except OSError as error:
            raise DatabaseUnavailable from error
        try:
            yield connection
        finally:
            await connection.close()


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Awaits `work` to its end even if the caller is cancelled, then lets it be cancelled."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


@contextmanager
def translated() -> Generator[None]:
    """Says conflicts and outages in our own words; every other database error is a bug here."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnavailable from error
    except DBAPIError as error:
        state = str(getattr(error.orig, "sqlstate", None))
        if state in _PG_CONFLICTS:
            raise WriteConflict from error
        away = state in _PG_SERVER_GOES or state == _PG_DISK_FULL
        away = away or state.startswith(_PG_CONNECTION_LOST)
        if error.connection_invalidated or away or _is_outage(error):
            raise DatabaseUnavailable from error
        raise


def _is_outage(error: DBAPIError) -> bool:
    """SQLite tells by message only that a lock was not had or a file cannot be used."""
    text = str(error.orig)
    return isinstance(error, OperationalError | InterfaceError) and (
        "database is locked" in text
        or "database or disk is full" in text
        or "disk I/O error" in text
        or "unable to open database file" in text
        or "connection is closed" in text
    )


async def database_now(session: Session) -> datetime:
    """The time by the database's clock, the one that all replicas share. It moves within a
    transaction. SQLite's has a resolution of 1 ms, PostgreSQL's of 1 µs."""
    return (await (await session.connection()).execute(_NOW)).scalar_one()


async def insert_new(
    session: Session,
    table: type[SQLModel],
    values: Mapping[str, object | ColumnElement[Any]],
) -> bool:
    """Inserts a row unless it conflicts with another one; True if it did.

    On PostgreSQL it waits for a concurrent transaction that is inserting the same key.
    """
    target = table.metadata.tables[str(table.__tablename__)]
    statement = _insertion(target, session.get_bind().dialect.name)
    computed = {name: value for name, value in values.items() if isinstance(value, ColumnElement)}
    given = {name: value for name, value in values.items() if name not in computed}
    if computed:
        statement = statement.values(computed)
    result = await (await session.connection()).execute(statement, given)
    return result.rowcount == 1


@cache
def _insertion(table: Table, dialect: str) -> postgresql.Insert | sqlite.Insert:
    """To build it takes longer than to carry it out."""
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()
