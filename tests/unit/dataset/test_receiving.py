"""Receiving beside checking: in order, in bounded memory, and never on after the end."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dataset.domain.errors import ChunkTooLarge, UploadTooLarge
from services.dataset.domain.receiving import (
    BATCH_BYTES,
    MAX_CHUNK_BYTES,
    in_thread,
    receive,
)


class Record:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        self.batches.append(chunk)


class Slow(Record):
    """A sink that works until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def feed(self, chunk: bytes) -> None:
        self.begun.set()
        self.let_go.wait()
        super().feed(chunk)


class Broken:
    def feed(self, chunk: bytes) -> None:
        raise OSError("no space left on device")


async def arriving(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@given(st.lists(st.integers(0, BATCH_BYTES + 1), max_size=8))
def test_every_byte_reaches_every_sink_in_order(sizes: list[int]):
    chunks = [bytes([number]) * size for number, size in enumerate(sizes)]
    one, other = Record(), Record()

    asyncio.run(receive(arriving(chunks), [one, other], limit_bytes=2**30))

    assert b"".join(one.batches) == b"".join(chunks)
    assert one.batches == other.batches
    assert all(len(batch) >= BATCH_BYTES for batch in one.batches[:-1])
    assert all(len(batch) < 2 * BATCH_BYTES for batch in one.batches)


async def test_a_fast_caller_waits_for_a_slow_sink():
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x" * BATCH_BYTES

    slow = Slow()
    receiving = asyncio.create_task(receive(chunks(), [slow], limit_bytes=2**30))
    await asyncio.sleep(0.1)

    assert sent == 2
    slow.let_go.set()
    await receiving
    assert len(slow.batches) == 100


async def test_a_cancelled_upload_waits_for_the_thread_that_uses_its_file():
    slow = Slow()
    receiving = asyncio.create_task(receive(arriving([b"x"] * 3), [slow], limit_bytes=9))
    await asyncio.to_thread(slow.begun.wait)

    receiving.cancel()
    await asyncio.sleep(0.05)
    receiving.cancel()
    await asyncio.sleep(0.05)

    assert not receiving.done()
    slow.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert slow.batches == [b"xxx"]


async def test_a_cancelled_caller_waits_for_the_end_of_its_work():
    slow = Slow()
    working = asyncio.create_task(in_thread(lambda: slow.feed(b"x")))
    await asyncio.to_thread(slow.begun.wait)

    working.cancel()
    await asyncio.sleep(0.05)

    assert not working.done()
    slow.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await working


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_what_a_sink_raises_comes_out(count: int):
    with pytest.raises(OSError, match="no space"):
        await receive(arriving([b"x" * BATCH_BYTES] * count), [Broken()], limit_bytes=2**30)


async def test_no_more_than_the_limit_is_taken():
    await receive(arriving([b"x" * 10]), [Record()], limit_bytes=10)
    with pytest.raises(UploadTooLarge):
        await receive(arriving([b"x" * 5, b"x" * 6]), [Record()], limit_bytes=10)


async def test_no_chunk_larger_than_a_mebibyte_is_taken():
    with pytest.raises(ChunkTooLarge):
        await receive(arriving([b"x" * (MAX_CHUNK_BYTES + 1)]), [Record()], limit_bytes=2**30)
