"""Blobs are whole or absent, on every kind of store, and prove themselves when read."""

import asyncio
import hashlib
import os
import resource
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest

from services.common.blobs import (
    PIECE_BYTES,
    Blob,
    BlobCorrupt,
    BlobMissing,
    Blobs,
    BlobsUnavailable,
    ObstoreBlobs,
)
from services.common.faults import InvalidArgument
from services.common.leftovers import KEPT, removing_leftovers
from services.common.testing.clock import START, FakeClock
from services.common.testing.s3 import make_bucket

LARGE = os.urandom(1000) * 10_000  # 10 MB: more than one part of a multipart upload
ABSENT = "0" * 64


async def pieces(content: bytes, size: int = 300_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def cut_after(content: bytes) -> AsyncIterator[bytes]:
    async for piece in pieces(content):
        yield piece
    raise ConnectionResetError("the caller went away")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def keys(blobs: Blobs) -> list[str]:
    """What lies in the store, whole or not."""
    assert isinstance(blobs, ObstoreBlobs)
    store = blobs._store
    return sorted(str(entry["path"]) for page in obstore.list(store) for entry in page)


def left_behind(blobs: Blobs, name: str) -> None:
    """As by a process that was killed."""
    assert isinstance(blobs, ObstoreBlobs)
    obstore.put(blobs._store, f"staging/{name}", b"half")


@pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=["empty", "small", "large"])
async def test_what_is_put_is_read_under_its_sha256(blobs: Blobs, content: bytes):
    blob = await blobs.put(pieces(content))

    assert blob == Blob(sha256(content), len(content))
    assert await blobs.exists(blob.digest)
    assert await blobs.read(blob.digest) == content
    assert keys(blobs) == [f"sha256/{blob.digest[:2]}/{blob.digest}"]


async def test_bytes_and_a_file_and_chunks_of_equal_content_are_one_blob(
    blobs: Blobs, tmp_path: Path
):
    path = tmp_path / "file"
    path.write_bytes(LARGE)

    from_file = await blobs.put_file(path)
    from_bytes = await blobs.put(LARGE)
    from_chunks = await blobs.put(pieces(LARGE))

    assert from_bytes == from_file == from_chunks == Blob(sha256(LARGE), len(LARGE))
    assert len(keys(blobs)) == 1
    assert await blobs.read(from_file.digest) == LARGE


async def test_a_cut_upload_leaves_nothing_and_raises_what_cut_it(blobs: Blobs):
    with pytest.raises(ConnectionResetError):
        await blobs.put(cut_after(LARGE))
    with pytest.raises(ConnectionResetError):
        await blobs.put(cut_after(b"small"))

    assert keys(blobs) == []


async def test_a_cancelled_upload_leaves_nothing(blobs: Blobs):
    half_way = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        async for piece in pieces(LARGE):
            yield piece
        half_way.set()
        await asyncio.sleep(60)

    putting = asyncio.create_task(blobs.put(stalled()))
    await half_way.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting

    assert keys(blobs) == []


@contextmanager
def no_file_above(size_bytes: int) -> Generator[None]:
    """To a writer it is as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_that_is_full_is_an_outage_and_leaves_nothing(file_blobs: Blobs):
    with no_file_above(5_000_000), pytest.raises(BlobsUnavailable):
        await file_blobs.put(pieces(LARGE))

    assert keys(file_blobs) == []
    assert (await file_blobs.put(pieces(LARGE))).size_bytes == len(LARGE)


async def test_an_upload_that_is_cut_does_not_touch_an_equal_blob(blobs: Blobs):
    blob = await blobs.put(b"kept")
    with pytest.raises(ConnectionResetError):
        await blobs.put(cut_after(b"kept"))

    assert await blobs.read(blob.digest) == b"kept"


async def test_many_equal_uploads_at_once_end_in_one_blob(blobs: Blobs):
    stored = await asyncio.gather(*(blobs.put(pieces(LARGE[:2_000_000])) for _ in range(8)))

    assert len(set(stored)) == 1
    assert len(keys(blobs)) == 1


async def test_a_stream_comes_in_bounded_pieces_from_any_offset(blobs: Blobs):
    digest = (await blobs.put(LARGE)).digest

    for offset in (0, 1, 5_000_000, len(LARGE) - 1, len(LARGE)):
        got = [piece async for piece in blobs.stream(digest, offset)]
        assert b"".join(got) == LARGE[offset:]
        assert all(0 < len(piece) <= PIECE_BYTES for piece in got)


async def test_an_offset_outside_the_blob_is_refused(blobs: Blobs):
    digest = (await blobs.put(b"12345")).digest

    for offset in (-1, 6):
        with pytest.raises(InvalidArgument):
            _ = [piece async for piece in blobs.stream(digest, offset)]


async def test_a_fetched_file_is_the_blob(blobs: Blobs, tmp_path: Path):
    digest = (await blobs.put(LARGE)).digest
    target = tmp_path / "target"
    target.write_bytes(b"old")

    await blobs.fetch(digest, target)

    assert target.read_bytes() == LARGE


async def test_damaged_bytes_are_refused_and_leave_the_target_as_it_was(
    blobs: Blobs, tmp_path: Path
):
    assert isinstance(blobs, ObstoreBlobs)
    digest = (await blobs.put(b"the truth")).digest
    store = blobs._store
    await obstore.put_async(store, f"sha256/{digest[:2]}/{digest}", b"tampered!")
    target = tmp_path / "fetched" / "target"
    target.parent.mkdir()

    with pytest.raises(BlobCorrupt):
        await blobs.fetch(digest, target)
    with pytest.raises(BlobCorrupt):
        await blobs.read(digest)

    assert list(target.parent.iterdir()) == []


async def test_a_missing_blob_is_told(blobs: Blobs, tmp_path: Path):
    assert not await blobs.exists(ABSENT)
    with pytest.raises(BlobMissing):
        await blobs.read(ABSENT)
    with pytest.raises(BlobMissing):
        _ = [piece async for piece in blobs.stream(ABSENT, 5)]
    with pytest.raises(BlobMissing):
        await blobs.fetch(ABSENT, tmp_path / "target")

    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
async def test_what_is_no_digest_never_becomes_a_path(blobs: Blobs, digest: str):
    with pytest.raises(InvalidArgument):
        await blobs.exists(digest)
    with pytest.raises(InvalidArgument):
        await blobs.read(digest)


async def test_an_s3_server_is_found_by_the_environment(s3: Any, monkeypatch: pytest.MonkeyPatch):
    """One in clear, too: only its address says so."""
    make_bucket(s3, "told")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3["endpoint"])
    monkeypatch.setenv("AWS_REGION", s3["region"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3["secret_access_key"])
    blobs = ObstoreBlobs.open("s3://told/by/environment")
    assert await blobs.read((await blobs.put(b"content")).digest) == b"content"


async def test_what_an_owner_has_is_apart_from_all_others(blobs: Blobs):
    one, other = blobs.owned_by("jobs/1"), blobs.owned_by("jobs/2")
    blob = await one.put(b"small")

    assert not await blobs.exists(blob.digest)
    assert not await other.exists(blob.digest)
    assert await blobs.put(b"small") == await other.put(b"small") == blob
    assert await one.read(blob.digest) == b"small"
    assert keys(blobs) == [
        f"owned/jobs/1/sha256/{blob.digest[:2]}/{blob.digest}",
        f"owned/jobs/2/sha256/{blob.digest[:2]}/{blob.digest}",
        f"sha256/{blob.digest[:2]}/{blob.digest}",
    ]


async def test_an_owners_file_is_sent_although_the_same_bytes_are_there(
    blobs: Blobs, tmp_path: Path
):
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    await blobs.put_file(path)

    owned = blobs.owned_by("jobs/1")

    assert await owned.read((await owned.put_file(path)).digest) == LARGE


async def test_removing_takes_all_of_an_owner_and_nothing_of_others(blobs: Blobs):
    owners = ["jobs/1/a", "jobs/1/b", "jobs/12", "jobs/2"]
    blob = await blobs.put(b"small")
    for owner in owners:
        await blobs.owned_by(owner).put(b"small")
        await blobs.owned_by(owner).put(b"another")

    await blobs.remove_owned("jobs/1/a")
    await blobs.remove_owned("jobs/1")
    await blobs.remove_owned("jobs/1")

    left = [await blobs.owned_by(owner).exists(blob.digest) for owner in owners]
    assert left == [False, False, True, True]
    assert await blobs.exists(blob.digest)


async def test_a_removed_owner_leaves_no_directory(tmp_path: Path):
    blobs = ObstoreBlobs.open((tmp_path / "blobs").as_uri())
    await blobs.owned_by("jobs/1").put(b"small")

    await blobs.remove_owned("jobs/1")

    assert not (tmp_path / "blobs/owned/jobs/1").exists()


async def test_what_an_upload_left_is_removed_when_nobody_can_be_writing_it(blobs: Blobs):
    whole = await blobs.put(b"small")
    left_behind(blobs, "0123abcd")
    now = datetime.now(UTC)

    await blobs.remove_leftovers(now - timedelta(days=1))
    assert len(keys(blobs)) == 2
    await blobs.remove_leftovers(now + timedelta(minutes=1))

    assert keys(blobs) == [f"sha256/{whole.digest[:2]}/{whole.digest}"]


async def test_a_file_that_was_never_closed_is_removed(tmp_path: Path):
    root = tmp_path / "blobs"
    blobs = ObstoreBlobs.open(root.as_uri())
    writer = obstore.open_writer(blobs._store, "staging/0123abcd", buffer_size=1)
    writer.write(b"half")
    writer.flush()
    assert (len(keys(blobs)), len(list((root / "staging").iterdir()))) == (0, 1)

    await blobs.remove_leftovers(datetime.now(UTC) + timedelta(minutes=1))

    assert list((root / "staging").iterdir()) == []


async def test_leftovers_are_removed_through_outages_of_the_store(tmp_path: Path):
    root = tmp_path / "mount"
    blobs = ObstoreBlobs.open(root.as_uri())
    root.rmdir()
    removing = asyncio.create_task(removing_leftovers(blobs, FakeClock(), every_s=0.01))
    await asyncio.sleep(0.05)
    (root / "staging").mkdir(parents=True)
    leftover = root / "staging/0123abcd"
    leftover.touch()
    old = START - KEPT - timedelta(seconds=1)
    os.utime(leftover, (old.timestamp(), old.timestamp()))

    async with asyncio.timeout(5):
        while leftover.exists():
            await asyncio.sleep(0.01)

    removing.cancel()


@pytest.mark.parametrize("owner", ["", "/", "..", "jobs/../..", "jobs/", "Jobs", "jobs\n"])
async def test_what_is_no_owner_never_becomes_a_path(blobs: Blobs, owner: str):
    with pytest.raises(InvalidArgument):
        blobs.owned_by(owner)
    with pytest.raises(InvalidArgument):
        await blobs.remove_owned(owner)


async def test_ping_answers(blobs: Blobs):
    await blobs.ping()


async def test_a_store_that_does_not_answer_is_unavailable():
    nowhere = ObstoreBlobs.open(
        "s3://bucket",
        s3={
            "endpoint": "http://127.0.0.1:9",
            "region": "r",
            "access_key_id": "k",
            "secret_access_key": "s",
        },
    )
    with pytest.raises(BlobsUnavailable):
        await nowhere.ping()
    with pytest.raises(BlobsUnavailable):
        await nowhere.put(b"content")
    with pytest.raises(BlobsUnavailable):
        await nowhere.read(ABSENT)
    with pytest.raises(BlobsUnavailable):
        await nowhere.remove_owned("jobs/1")


async def test_a_directory_that_vanished_is_unavailable(tmp_path: Path):
    blobs = ObstoreBlobs.open((tmp_path / "mount").as_uri())
    (tmp_path / "mount").rmdir()

    with pytest.raises(BlobsUnavailable):
        await blobs.ping()
    with pytest.raises(BlobsUnavailable):
        await blobs.remove_owned("jobs/1")


async def test_a_bucket_that_does_not_exist_is_unavailable(s3: object):
    from typing import Any, cast

    blobs = ObstoreBlobs.open("s3://no-such-bucket", s3=cast(Any, s3))
    with pytest.raises(BlobsUnavailable):
        await blobs.ping()


async def test_a_local_blob_is_synced_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "blobs"
    blobs = ObstoreBlobs.open(root.as_uri())
    synced: list[str] = []
    fsync = os.fsync

    def observe(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append(path.relative_to(root).parts[0] if path != root else ".")
        synced.extend(["named"] if list(root.glob("sha256/*/*")) else [])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", observe)
    await blobs.put(b"precious")

    assert synced == ["staging", "sha256", "named", "sha256", "named", ".", "named"]
