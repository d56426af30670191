"""R8: no room for events, where they wait or where they go. They arrive once and in order when
there is room again."""

import asyncio
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import nats
import psutil
import pytest
from nats.js.errors import Error as JetStreamError

from services.common.bus_nats import NatsBus
from services.common.testing.free_port import free_port
from services.common.testing.nats import NatsServer, nats_server_path
from tests.faults.chain import THINGS, Run
from tests.faults.chain_process import Surroundings, chain_process
from tests.faults.site import can_mount, on_disk
from tests.faults.test_failpoints import look

pytestmark = [pytest.mark.fault("R8"), pytest.mark.timeout(180)]
# Only the kernel can say that a disk is full, and a small one takes a mount of its own.
needs_small_disk = pytest.mark.skipif(
    not can_mount(), reason="this system lets nobody mount a small disk"
)

DISK_BYTES = 8_000_000
STORE_BYTES = 1_000_000
FULL_S = {False: 0.5, True: 30.0}
LIMIT_S = 60.0
NATS_LOG = "nats.log"
FOREVER = ("sh", "-c", 'while :; do "$@"; done', "sh")
"""Starts a program again that has ended, as whoever runs it in production does."""
ALL = [f"thing:{number}" for number in range(THINGS)]


@dataclass(frozen=True)
class SmallDisk:
    """What a process of another mount namespace has at a directory."""

    directory: Path
    owner: int

    @property
    def path(self) -> Path:
        """Its files, seen from here."""
        return Path(f"/proc/{self.owner}/root{self.directory}")

    def fill(self) -> None:
        with suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"


def until(condition: Callable[[], bool], what: str) -> float:
    """Returns how many seconds it took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < LIMIT_S, f"waited in vain for {what}"
        time.sleep(0.02)
    return time.monotonic() - began_s


def unpublished(directory: Path) -> int:
    """How many events wait in the outbox of a chain there; -1 while there is none."""
    waiting = "SELECT count(*) FROM outbox WHERE published_at IS NULL"
    with TemporaryDirectory() as aside, suppress(OSError, sqlite3.Error):
        for name in ("rows.db", "rows.db-wal"):  # SQLite itself would not see another's mounts
            shutil.copy(directory / name, aside)
        with closing(sqlite3.connect(Path(aside) / "rows.db")) as connection:
            return int(connection.execute(waiting).fetchone()[0])
    return -1


def stored(url: str) -> list[str]:
    """The ids of the messages in the stream, in its order; none without a stream."""

    async def read() -> list[str]:
        client = await nats.connect(url)
        try:
            jetstream = client.jetstream()
            state = (await jetstream.stream_info("ANNEAL")).state
            numbers = range(state.first_seq, state.last_seq + 1) if state.messages else ()
            messages = [await jetstream.get_msg("ANNEAL", number) for number in numbers]
            return [(message.headers or {})["Nats-Msg-Id"] for message in messages]
        except JetStreamError:
            return []
        finally:
            await client.close()

    return asyncio.run(read())


@needs_small_disk
def test_events_are_told_once_though_a_full_database_takes_no_note_of_it(
    nats: NatsServer, tmp_path: Path, long: bool, tell: Callable[..., None]
) -> None:
    directory = tmp_path / "disk"
    directory.mkdir()
    surrounded = partial(on_disk, (directory, DISK_BYTES))
    with ThreadPoolExecutor() as threads, chain_process(surrounded) as chain:
        disk = SmallDisk(directory, chain.pid)
        nats.kill()
        run = Run(str(directory / "chain"), nats.url, bus_wait_s=0.1)
        running = threads.submit(chain.run, run)
        until(lambda: unpublished(disk.path / "chain") == THINGS, "events that wait")
        disk.fill()
        nats.start()
        until(lambda: stored(nats.url) == ALL, "the events")
        time.sleep(FULL_S[long])
        assert unpublished(disk.path / "chain") == THINGS, "there was room for the note"
        disk.make_room()
        began_s = time.monotonic()
        assert running.result(LIMIT_S) == 0
        recovered_s = time.monotonic() - began_s
        shutil.copytree(disk.path / "chain", tmp_path / "copy")
    left = asyncio.run(look(tmp_path / "copy"))
    tell("R8", what="disk full under the outbox", recovered_after_s=recovered_s, doubled=0)
    assert stored(nats.url) == ALL
    assert left.seen == list(range(THINGS))


@dataclass(frozen=True)
class Server:
    """A nats-server whose JetStream can be filled."""

    url: str
    log: Path
    refusal: str
    fill: Callable[[], None]
    make_room: Callable[[], None]

    def refuses(self) -> bool:
        return self.refusal in self.log.read_text()


@contextmanager
def served(directory: Path, more: str, surrounded: Surroundings) -> Generator[tuple[str, int]]:
    """The URL of a server whose JetStream is in a folder of `directory`, and its pid."""
    port = free_port()
    config = directory / "nats.conf"
    config.write_text(
        f"listen: 127.0.0.1:{port}\n"
        f'jetstream {{ store_dir: "{directory / "store"}", sync_interval: always, {more} }}\n'
    )
    program = surrounded((nats_server_path(), "-c", str(config)))
    with (directory / NATS_LOG).open("w") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log)
    try:
        until(lambda: is_listening(port), "the nats-server")
        yield f"nats://127.0.0.1:{port}", process.pid
    finally:
        family = [process.pid, *(one.pid for one in psutil.Process(process.pid).children())]
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        process.wait()


def is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


@contextmanager
def on_small_disk(directory: Path) -> Generator[Server]:
    """Whose disk others fill. It stores nothing after that before it is started again."""
    store = directory / "store"
    store.mkdir()

    def surrounded(program: Sequence[str]) -> Sequence[str]:
        return on_disk((store, STORE_BYTES), (*FOREVER, *program))

    with served(directory, "max_file_store: 100MB", surrounded) as (url, owner):
        disk = SmallDisk(store, owner)

        def make_room() -> None:
            disk.make_room()
            (server,) = psutil.Process(owner).children()
            server.kill()

        log = directory / NATS_LOG
        yield Server(url, log, "no space left on device", disk.fill, make_room)


@contextmanager
def with_limit(directory: Path) -> Generator[Server]:
    """That may store so much and no more."""

    async def fill() -> None:
        client = await nats.connect(url)
        jetstream = client.jetstream()
        await jetstream.add_stream(name="FILLER", subjects=["filler"])
        with suppress(JetStreamError):
            while True:
                await jetstream.publish("filler", bytes(STORE_BYTES // 10))
        await client.close()

    async def make_room() -> None:
        client = await nats.connect(url)
        await client.jetstream().delete_stream("FILLER")
        await client.close()

    with served(directory, f"max_file_store: {STORE_BYTES}", tuple) as (url, _):
        refusal = "resource limits exceeded"
        yield Server(
            url,
            directory / NATS_LOG,
            refusal,
            lambda: asyncio.run(fill()),
            lambda: asyncio.run(make_room()),
        )


@pytest.mark.parametrize("kind", [pytest.param(on_small_disk, marks=needs_small_disk), with_limit])
def test_events_wait_while_the_bus_has_no_room(
    kind: Callable[[Path], AbstractContextManager[Server]],
    tmp_path: Path,
    long: bool,
    tell: Callable[..., None],
) -> None:
    directory = tmp_path / "chain"
    with ThreadPoolExecutor() as threads, chain_process() as chain, kind(tmp_path) as server:
        asyncio.run(make_stream(server.url))
        server.fill()
        running = threads.submit(chain.run, Run(str(directory), server.url))
        until(server.refuses, "a refusal")
        until(lambda: unpublished(directory) > 0, "events that wait")
        time.sleep(FULL_S[long])
        assert stored(server.url) != ALL
        server.make_room()
        began_s = time.monotonic()
        assert running.result(LIMIT_S) == 0
        recovered_s = time.monotonic() - began_s
        assert stored(server.url) == ALL
    tell("R8", what=f"no room in JetStream, {kind.__name__}", recovered_after_s=recovered_s)
    assert asyncio.run(look(directory)).seen == list(range(THINGS))


async def make_stream(url: str) -> None:
    bus = await NatsBus.connect(url, name="first")
    await bus.close()
