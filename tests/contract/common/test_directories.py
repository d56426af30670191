"""Directories as blobs: what is fetched appears whole, once, whoever asks."""

import asyncio
from pathlib import Path

import pytest

from services.common.blobs import Blobs
from services.common.directories import Directories
from services.common.faults import DataLoss

FILES = {"config.json": b"{}", "weights/a.bin": b"a" * 300_000, "weights/b.bin": b"b" * 300_000}


@pytest.fixture
def original(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "original" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "original"


def files_in(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


async def test_a_stored_directory_comes_back_as_it_was(
    blobs: Blobs, original: Path, tmp_path: Path
) -> None:
    directories = Directories(blobs, tmp_path / "cache")
    stored = await directories.store(original, {})
    assert stored.size_bytes == sum(map(len, FILES.values()))
    assert files_in(await directories.cached(stored.manifest_digest)) == FILES


async def test_many_who_ask_at_once_get_the_same_whole_directory(
    file_blobs: Blobs, original: Path, tmp_path: Path
) -> None:
    directories = Directories(file_blobs, tmp_path / "cache")
    digest = (await directories.store(original, {})).manifest_digest
    paths = await asyncio.gather(*(directories.cached(digest) for _ in range(16)))
    assert len(set(paths)) == 1
    assert files_in(paths[0]) == FILES


async def test_processes_that_share_a_cache_do_not_disturb_each_other(
    file_blobs: Blobs, original: Path, tmp_path: Path
) -> None:
    sharing = [Directories(file_blobs, tmp_path / "cache") for _ in range(8)]
    digest = (await sharing[0].store(original, {})).manifest_digest
    paths = await asyncio.gather(*(one.cached(digest) for one in sharing))
    assert files_in(paths[0]) == FILES
    assert list(paths[0].parent.iterdir()) == [paths[0]]  # nothing half done is left


async def test_a_directory_that_lacks_a_file_does_not_appear(
    file_blobs: Blobs, original: Path, tmp_path: Path
) -> None:
    elsewhere = Directories(file_blobs, tmp_path / "elsewhere")
    digest = (await elsewhere.store(original, {})).manifest_digest
    (lost,) = [
        path
        for path in (tmp_path / "blobs").rglob("*")
        if path.is_file() and path.read_bytes() == FILES["weights/b.bin"]
    ]
    lost.unlink()
    directories = Directories(file_blobs, tmp_path / "cache")
    with pytest.raises(DataLoss):
        await directories.cached(digest)
    assert not list((tmp_path / "cache" / "directories").iterdir())
