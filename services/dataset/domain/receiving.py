"""Receives an upload while a thread works on what came before.

The next batch is received while the one before is hashed and checked, and at most one more is
being gathered: a fast caller is held back by HTTP/2's flow control and not by our memory.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from services.dataset.domain.errors import ChunkTooLarge, UploadTooLarge
from services.dataset.domain.intake import Sink

T = TypeVar("T")

MAX_CHUNK_BYTES = 1024 * 1024
BATCH_BYTES = 256 * 1024
"""A hand-over to another thread costs about 0.1 ms: smaller chunks are gathered first."""


async def receive(chunks: AsyncIterator[bytes], sinks: Sequence[Sink], *, limit_bytes: int) -> None:
    """Feeds all chunks to every sink, in order. Raises ChunkTooLarge, UploadTooLarge, and what a
    sink raises. No thread uses the sinks any more when it ends, however it ends."""
    working: asyncio.Task[None] | None = None
    try:
        async with aclosing(_batches(chunks, limit_bytes)) as batches:
            async for batch in batches:
                if working is not None:
                    await asyncio.shield(working)
                working = asyncio.create_task(asyncio.to_thread(_feed, sinks, batch))
    finally:
        if working is not None:
            await _to_the_end(working)
    if working is not None:
        working.result()


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns. A cancellation waits for the end of `work`, because that uses what the
    caller is about to close."""
    working = asyncio.create_task(asyncio.to_thread(work))
    await _to_the_end(working)
    return working.result()


async def _to_the_end(task: asyncio.Task[Any]) -> None:
    """Returns when the task is done; raises a cancellation that came meanwhile only then."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _feed(sinks: Sequence[Sink], batch: bytes) -> None:
    for sink in sinks:
        sink.feed(batch)


async def _batches(chunks: AsyncIterator[bytes], limit_bytes: int) -> AsyncGenerator[bytes]:
    """The chunks, small ones joined to batches of BATCH_BYTES."""
    received_bytes = 0
    gathered = bytearray()
    async for chunk in chunks:
        if len(chunk) > MAX_CHUNK_BYTES:
            raise ChunkTooLarge(len(chunk), MAX_CHUNK_BYTES)
        received_bytes += len(chunk)
        if received_bytes > limit_bytes:
            raise UploadTooLarge(limit_bytes)
        if not gathered and len(chunk) >= BATCH_BYTES:
            yield chunk
            continue
        gathered += chunk
        if len(gathered) >= BATCH_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)
