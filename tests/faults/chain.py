"""`python -m tests.faults.chain`: a little service through which things go all the way.

A thing is a directory: its files become blobs, their manifest and a row name it, the row's event
goes over the outbox and JetStream to a consumer, which fetches the directory into its cache and
writes the effect. A line of JSON on stdin asks for a run; each is a process of its own, forked from
this one with the imports behind it, and its exit code is the answer.
"""

import asyncio
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from sqlmodel import Field, SQLModel, col, func, select

from services.common.blobs import ObstoreBlobs
from services.common.bus import Message
from services.common.bus_nats import NatsBus
from services.common.directories import Directories
from services.common.failpoints import VARIABLE, arm
from services.common.faults import Unavailable
from services.common.inbox import Consumer, Inbox
from services.common.outbox import Outbox, Relay
from services.common.store import Session, Store, open_engine
from services.common.tables import OutboxRow, service_registry

THINGS = 4
SUBJECT = "anneal.things"
ACK_WAIT_S = 0.3


class Row(SQLModel, registry=service_registry()):
    """Base of this service's tables."""


class MadeRow(Row, table=True):
    __tablename__: ClassVar[Any] = "made"

    number: int = Field(primary_key=True)
    digest: str


class SeenRow(Row, table=True):
    """An effect. One that happened twice has two rows."""

    __tablename__: ClassVar[Any] = "seen"

    id: int | None = Field(default=None, primary_key=True)
    number: int


@dataclass(frozen=True)
class Tables:
    session: Session
    outbox: Outbox
    inbox: Inbox


@dataclass(frozen=True)
class Run:
    """What one process is to do, and where. It waits `bus_wait_s` for the bus before it begins."""

    directory: str
    nats_url: str
    failpoints: str = ""
    bus_wait_s: float = 5.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def content_of(number: int) -> dict[str, bytes]:
    return {"a.bin": bytes([number]) * 300_000, "b.txt": f"thing {number}".encode()}


class Chain:
    """The service, in a directory."""

    def __init__(self, directory: Path, bus: NatsBus) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._bus = bus
        self._store = open_store(directory)
        self._directories = Directories(open_blobs(directory), directory / "cache")

    async def run(self) -> None:
        """Returns when every thing is made and seen, and every event is marked as published."""
        async with self._store.engine.begin() as connection:
            await connection.run_sync(Row.metadata.create_all)
        relay = Relay(self._store, self._bus, poll_s=0.05)
        consumer = Consumer(
            self._bus, self._store, "seeing", [SUBJECT], self._see, ack_wait_s=ACK_WAIT_S
        )
        tasks = [asyncio.create_task(work) for work in (relay.run(), consumer.run())]
        for number in range(THINGS):
            await self._made(number)
        while not await self._is_done():
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self._store.close()

    async def _made(self, number: int) -> None:
        """As a caller whose call failed because of an outage, who repeats it."""
        while True:
            try:
                return await self._make(number)
            except Unavailable:
                await asyncio.sleep(0.05)

    async def _make(self, number: int) -> None:
        async with self._store.reading() as tables:
            if await tables.session.get(MadeRow, number) is not None:
                return
        source = self._directory / "source" / str(number)
        source.mkdir(parents=True, exist_ok=True)
        for name, content in content_of(number).items():
            (source / name).write_bytes(content)
        stored = await self._directories.store(source, {})
        thing = json.dumps({"number": number, "digest": stored.manifest_digest})
        async with self._store.writing() as tables:
            tables.session.add(MadeRow(number=number, digest=stored.manifest_digest))
            await tables.outbox.add(f"thing:{number}", SUBJECT, thing.encode())

    async def _see(self, tables: Tables, message: Message) -> None:
        thing = json.loads(message.payload)
        try:
            await self._directories.cached(thing["digest"])
        except OSError as error:
            raise Unavailable("DISK_FULL", str(error)) from error
        tables.session.add(SeenRow(number=thing["number"]))
        await tables.session.flush()

    async def _is_done(self) -> bool:
        async with self._store.reading() as tables:
            seen = await tables.session.exec(select(func.count(func.distinct(SeenRow.number))))
            waiting = select(func.count()).where(col(OutboxRow.published_at).is_(None))
            return seen.one() == THINGS and (await tables.session.exec(waiting)).one() == 0


def open_store(directory: Path) -> Store[Tables]:
    url = f"sqlite+aiosqlite:///{directory / 'rows.db'}"
    return Store(open_engine(url), lambda session: Tables(session, Outbox(session), Inbox(session)))


def open_blobs(directory: Path) -> ObstoreBlobs:
    return ObstoreBlobs.open((directory / "blobs").as_uri())


async def run(told: Run) -> None:
    bus = await NatsBus.connect(told.nats_url, name="chain", wait_s=told.bus_wait_s)
    try:
        await Chain(Path(told.directory), bus).run()
    finally:
        await bus.close()


def in_child(told: Run) -> int:
    """Its exit code; below 0: the signal that ended it."""
    child = os.fork()
    if child == 0:
        arm({VARIABLE: told.failpoints})
        asyncio.run(run(told))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for line in sys.stdin:
        print(in_child(Run(**json.loads(line))), flush=True)
