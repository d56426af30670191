"""R4: a real process dies once at every failpoint, and what goes on after it loses nothing."""

import asyncio
import hashlib
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from sqlmodel import col, func, select

from services.common.directories import Directories
from services.common.failpoints import EXIT_CODE, FAILPOINTS
from services.common.tables import OutboxRow
from services.common.testing.nats import NatsServer
from tests.faults.chain import (
    THINGS,
    MadeRow,
    Row,
    Run,
    SeenRow,
    content_of,
    open_blobs,
    open_store,
)
from tests.faults.chain_process import ChainProcess, chain_process

pytestmark = pytest.mark.fault("R4")

LIMIT_S = 60
SOME_TRANSACTION = 8
"""The first three are the relay's, which sweeps."""


@pytest.fixture(scope="module")
def chain() -> Generator[ChainProcess]:
    with chain_process() as process:
        yield process


@dataclass(frozen=True)
class Left:
    """What is there, whoever looks: rows, effects, and what was being written."""

    made: int
    unpublished: int
    seen: list[int]
    unfinished: int


async def look(directory: Path) -> Left:
    """Whatever has appeared is whole, at any moment."""
    store = open_store(directory)
    async with store.engine.begin() as connection:
        await connection.run_sync(Row.metadata.create_all)
    async with store.reading() as tables:
        made = list(await tables.session.exec(select(MadeRow)))
        waiting = select(func.count()).where(col(OutboxRow.published_at).is_(None))
        unpublished = (await tables.session.exec(waiting)).one()
        seen = sorted(await tables.session.exec(select(SeenRow.number)))
    await store.close()
    for row in made:
        await assert_stored(directory, row)
    assert_whole(directory)
    unfinished = [*directory.glob("blobs/staging/*"), *directory.glob("cache/*/.*")]
    return Left(len(made), unpublished, seen, len(unfinished))


async def assert_stored(directory: Path, row: MadeRow) -> None:
    """A row names what can be had."""
    directories = Directories(open_blobs(directory), directory)
    copy = await directories.fetch(row.digest, directory / f"copy-{row.number}")
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == content_of(row.number)
    for path in copy.iterdir():
        path.unlink()
    copy.rmdir()


def assert_whole(directory: Path) -> None:
    """Every blob has the content that its name says, every directory of the cache all its files."""
    for blob in directory.glob("blobs/sha256/*/*"):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    for cached in directory.glob("cache/directories/[!.]*"):
        number = int((cached / "b.txt").read_text().split()[1])
        assert {path.name: path.read_bytes() for path in cached.iterdir()} == content_of(number)


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("name", [name for name in FAILPOINTS if not name.startswith("node.")])
def test_a_death_at_any_failpoint_loses_and_doubles_nothing(
    name: str,
    chain: ChainProcess,
    nats: NatsServer,
    tmp_path: Path,
    tell: Callable[..., None],
) -> None:
    directory = tmp_path / "chain"
    turn = SOME_TRANSACTION if name.startswith("store.") else 2
    dying = Run(str(directory), nats.url, f"{name}=exit@{turn}")
    assert chain.run(dying) == EXIT_CODE, "it never came by"
    died = asyncio.run(look(directory))
    assert chain.run(Run(str(directory), nats.url)) == 0
    after = asyncio.run(look(directory))
    assert (after.made, after.unpublished) == (THINGS, 0)
    assert after.seen == list(range(THINGS))
    tell("R4", point=name, left=asdict(died), recovered=True)
