"""The unit of work: all or nothing, whatever happens to the caller."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import col, select, text, update

from services.common.columns import DatabaseNow
from services.common.faults import Aborted, Unavailable
from services.common.store import Store, database_now, insert_new, open_engine
from services.common.tables import OutboxRow
from services.common.testing.fault_proxy import FaultProxy
from services.common.testing.postgres import Postgres
from tests.contract.common.notes import NoteRow, Row, Tables, tables

Notes = Store[Tables]


async def driver_threads_end() -> None:
    """aiosqlite leaves the thread of a connection that failed to open to end by itself, which
    must be before this test's event loop does."""
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join)


async def notes_of(store: Notes) -> list[str]:
    async with store.reading() as db:
        return await db.notes()


async def test_what_is_written_is_read_by_the_next_transaction(store: Notes):
    async with store.writing() as db:
        await db.add_note("hello")

    assert await notes_of(store) == ["hello"]


async def test_an_exception_leaves_nothing_and_the_store_usable(store: Notes):
    async def write_and_fail() -> None:
        async with store.writing() as db:
            await db.add_note("lost")
            raise ValueError("changed my mind")

    with pytest.raises(ValueError, match="changed my mind"):
        await write_and_fail()

    async with store.writing() as db:
        await db.add_note("kept")
    assert await notes_of(store) == ["kept"]


async def test_a_taken_key_is_the_callers_to_handle(store: Notes):
    async with store.writing() as db:
        await db.add_note("one")

    with pytest.raises(IntegrityError):
        async with store.writing() as db:
            await db.add_note("one")


async def test_eight_concurrent_writers_all_succeed(store: Notes):
    async def write(writer: int) -> None:
        for turn in range(25):
            async with store.writing() as db:
                await db.add_note(f"{writer}-{turn}")

    await asyncio.gather(*(write(writer) for writer in range(8)))

    assert len(await notes_of(store)) == 200


async def test_writers_of_two_processes_take_turns(store: Notes, database_url: str):
    """Another process has another engine and so another lock; the database makes it wait."""
    other = Store(open_engine(database_url), tables)

    async def write(through: Notes, writer: int) -> None:
        for turn in range(20):
            async with through.writing() as db:
                await db.add_note(f"{writer}-{turn}")

    await asyncio.gather(write(store, 0), write(other, 1))
    await other.close()

    assert len(await notes_of(store)) == 40


async def test_no_update_is_lost_between_writers(store: Notes):
    async with store.writing() as db:
        await db.outbox.add("counter", "anneal.test", b"")

    async def increment() -> None:
        async with store.writing() as db:
            await db.session.exec(update(OutboxRow).values(subject=col(OutboxRow.subject) + "+"))

    await asyncio.gather(*(increment() for _ in range(30)))

    async with store.reading() as db:
        (row,) = (await db.session.exec(select(OutboxRow))).all()
    assert row.subject.count("+") == 30


async def test_a_cancelled_writer_leaves_nothing_and_the_store_usable(store: Notes):
    entered = asyncio.Event()

    async def write() -> None:
        async with store.writing() as db:
            await db.add_note("half")
            entered.set()
            await asyncio.sleep(60)

    writer = asyncio.create_task(write())
    await entered.wait()
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer

    async with store.writing() as db:
        await db.add_note("after")
    assert await notes_of(store) == ["after"]


async def test_writers_cancelled_at_any_moment_write_all_or_nothing(store: Notes):
    async def write(number: int) -> None:
        async with store.writing() as db:
            await db.add_note(f"{number:03}-a")
            await db.add_note(f"{number:03}-b")

    for number in range(60):
        writer = asyncio.create_task(write(number))
        await asyncio.sleep(number * 0.0001)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)

    notes = await notes_of(store)
    assert {note for note in notes if note.endswith("a")} == {
        note.replace("b", "a") for note in notes if note.endswith("b")
    }
    async with store.writing() as db:
        await db.add_note("still usable")


async def test_a_writer_cancelled_in_a_statement_gives_its_lock_back_at_once(
    store: Notes, database_url: str
):
    """Also while its traceback, and so the statement's cursor, is still held."""
    count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) "
    other = Store(open_engine(database_url, busy_timeout_s=0.5), tables)
    held: list[pytest.ExceptionInfo[asyncio.CancelledError]] = []

    async def write(number: int) -> None:
        async with store.writing() as db:
            await db.add_note(f"lost {number}")
            await db.session.exec(text(count + "SELECT max(i) FROM n"))
            await asyncio.sleep(60)

    for number in range(20):
        writer = asyncio.create_task(write(number))
        await asyncio.sleep(number * 0.002)
        writer.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await writer
        held.append(caught)
        async with other.writing() as db:
            await db.add_note(f"kept {number}")
    await other.close()

    assert [note for note in await notes_of(store) if "lost" in note] == []


async def test_a_cancellation_during_the_commit_is_told_after_it(store: Notes):
    writer: asyncio.Task[None]
    committed: list[bool] = []
    store.on_commit(lambda: committed.append(True))

    async def write() -> None:
        async with store.writing() as db:
            await db.add_note("decided")
            asyncio.get_running_loop().call_soon(writer.cancel)

    writer = asyncio.create_task(write())
    with pytest.raises(asyncio.CancelledError):
        await writer

    assert committed == [True]
    assert await notes_of(store) == ["decided"]


async def test_a_reader_sees_one_snapshot(store: Notes):
    async with store.reading() as before:
        assert await before.notes() == []
        async with store.writing() as db:
            await db.add_note("later")
        assert await before.notes() == []

    assert await notes_of(store) == ["later"]


async def test_callbacks_run_after_each_commit_and_after_nothing_else(store: Notes):
    calls: list[str] = []
    store.on_commit(lambda: calls.append("commit"))

    async with store.writing() as db:
        await db.add_note("one")
        assert calls == []
    async with store.reading() as db:
        await db.notes()
    with pytest.raises(ZeroDivisionError):
        async with store.writing():
            raise ZeroDivisionError
    assert calls == ["commit"]

    async with store.sharing(tables).writing() as db:
        await db.add_note("two")
    async with store.sharing(tables, announces=False).writing() as db:
        await db.add_note("three")
    assert calls == ["commit", "commit"]


async def test_the_databases_clock_is_near_ours_and_moves_within_a_transaction(store: Notes):
    async with store.writing() as db:
        first = await database_now(db.session)
        await asyncio.sleep(0.01)
        second = await database_now(db.session)

    assert timedelta(milliseconds=5) <= second - first < timedelta(seconds=5)
    assert abs(datetime.now(UTC) - second) < timedelta(seconds=5)


async def test_times_come_back_as_they_went_in_to_the_microsecond(store: Notes):
    moment = datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC)
    async with store.writing() as db:
        db.session.add(OutboxRow(message_id="m", subject="s", payload=b"", created_at=moment))

    async with store.reading() as db:
        earlier = select(OutboxRow).where(col(OutboxRow.created_at) < DatabaseNow())
        (row,) = (await db.session.exec(earlier)).all()
    assert row.created_at == moment
    assert row.created_at.tzinfo is UTC


async def test_a_naive_time_is_refused(store: Notes):
    naive = datetime(2026, 1, 1)
    with pytest.raises(Exception, match="time zone"):
        async with store.writing() as db:
            db.session.add(OutboxRow(message_id="m", subject="s", payload=b"", created_at=naive))


async def test_insert_new_says_whether_it_was(store: Notes):
    async with store.writing() as db:
        assert await insert_new(db.session, NoteRow, {"text": "one"})
        assert not await insert_new(db.session, NoteRow, {"text": "one"})

    assert await notes_of(store) == ["one"]


async def test_ping_answers(store: Notes):
    await store.ping()


async def test_a_database_that_cannot_be_opened_is_unavailable():
    store = Store(open_engine("sqlite+aiosqlite:////nowhere/rows.db"), tables)
    with pytest.raises(Unavailable) as caught:
        await store.ping()
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    await store.close()
    await driver_threads_end()


async def test_a_server_that_does_not_listen_is_unavailable():
    store = Store(open_engine("postgresql+asyncpg://postgres@127.0.0.1:9/none"), tables)
    for use in (store.reading, store.writing):
        with pytest.raises(Unavailable):
            async with use() as db:
                await db.notes()
    with pytest.raises(Unavailable):
        await store.ping()
    await store.close()


async def test_a_callers_own_connection_error_is_not_taken_for_the_databases(store: Notes):
    with pytest.raises(ConnectionRefusedError):
        async with store.writing():
            raise ConnectionRefusedError


async def test_a_sqlite_file_that_another_process_keeps_locked_is_unavailable(sqlite_url: str):
    blocker = Store(open_engine(sqlite_url), tables)
    store = Store(open_engine(sqlite_url, busy_timeout_s=0.05), tables)
    async with blocker.writing():
        with pytest.raises(Unavailable):
            async with store.writing() as db:
                await db.add_note("in vain")
    await store.close()
    await blocker.close()


async def test_a_lost_connection_is_unavailable_and_then_replaced(
    postgresql_url: str, postgres_server: Postgres
):
    store = Store(open_engine(postgresql_url), tables)

    async def write_through_a_restart() -> None:
        async with store.writing() as db:
            await postgres_server.disconnect_everybody(postgresql_url)
            await db.session.exec(text("SELECT 1"))

    with pytest.raises(Unavailable):
        await write_through_a_restart()

    await store.ping()
    await store.close()


async def test_a_deadlock_is_a_conflict_to_repeat(postgresql_url: str):
    store = Store(open_engine(postgresql_url), tables)
    async with store.writing() as db:
        await db.session.exec(text("CREATE TABLE pair (id INT PRIMARY KEY, n INT)"))
        await db.session.exec(text("INSERT INTO pair VALUES (1, 0), (2, 0)"))
    both_hold_one = asyncio.Barrier(2)

    async def lock(first: int, second: int) -> None:
        async with store.writing() as db:
            await db.session.exec(text(f"UPDATE pair SET n = n + 1 WHERE id = {first}"))
            await both_hold_one.wait()
            await db.session.exec(text(f"UPDATE pair SET n = n + 1 WHERE id = {second}"))

    outcomes = await asyncio.gather(lock(1, 2), lock(2, 1), return_exceptions=True)
    await store.close()

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "WriteConflict"]
    assert issubclass(type(next(o for o in outcomes if o)), Aborted)


async def test_a_reader_of_postgresql_cannot_write(postgresql_url: str):
    store = Store(open_engine(postgresql_url), tables)
    with pytest.raises(DBAPIError, match="read-only"):
        async with store.reading() as db:
            await db.session.exec(text("CREATE TABLE stray (id INT)"))
    await store.close()


async def test_a_full_disk_is_an_outage_that_leaves_nothing(sqlite_url: str):
    engine = open_engine(sqlite_url)
    store = Store(engine, tables)
    async with engine.begin() as connection:
        await connection.run_sync(Row.metadata.create_all)
    pages = 0

    def hold_to_size(connection: Connection) -> None:
        if pages:
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    event.listen(engine.sync_engine, "begin", hold_to_size)
    async with store.reading() as db:
        pages = (await db.session.exec(text("PRAGMA page_count"))).scalar_one()

    async def fill() -> None:
        async with store.writing() as db:
            for number in range(2000):
                await db.add_note(f"{number:04} of a full disk")

    with pytest.raises(Unavailable):
        await fill()

    assert await notes_of(store) == []
    pages *= 1000
    async with store.writing() as db:
        await db.add_note("there is room again")
    assert await notes_of(store) == ["there is room again"]
    await store.close()


async def test_a_server_that_goes_silent_is_an_outage_and_no_hang(postgresql_url: str):
    """A network that swallows everything closes no connection."""
    (directory,) = parse_qs(urlsplit(postgresql_url).query)["host"]
    async with FaultProxy.to_socket(Path(directory) / ".s.PGSQL.5432") as proxy:
        head, _, database = postgresql_url.partition("?")[0].rpartition("/")
        url = f"{head.removesuffix('@')}@{proxy.address}/{database}"
        store = Store(open_engine(url, answer_timeout_s=0.5), tables)
        async with store.engine.begin() as connection:
            await connection.run_sync(Row.metadata.create_all)

        async def write_half() -> None:
            async with store.writing() as db:
                await db.add_note("half")
                proxy.black_hole()
                await db.notes()

        async with asyncio.timeout(10):
            with pytest.raises(Unavailable):
                await write_half()
            with pytest.raises(Unavailable):
                await notes_of(store)
        proxy.reset()
        proxy.heal()
        async with asyncio.timeout(10):
            assert await notes_of(store) == []
        await store.close()


async def test_a_server_that_goes_while_it_is_connected_to_is_away() -> None:
    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    engine = open_engine(f"postgresql+asyncpg://me@127.0.0.1:{port}/db?ssl=disable")
    store = Store(engine, tables)
    with pytest.raises(Unavailable):
        await store.ping()
    await store.close()
    server.close()
