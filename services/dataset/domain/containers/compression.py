"""Compressed bytes as they arrive → what they hold, a little at a time.

However much a byte stands for, no step makes more than STEP_BYTES.
"""

import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from services.dataset.domain.containers.reading import Unreadable
from services.dataset.domain.errors import DecompressedTooLarge
from services.dataset.domain.flaws import FlawCode

STEP_BYTES = 64 * 1024
_SLICE_BYTES = 16 * 1024
"""So much is given to the decompressor at once: it copies what it has not used in each step."""

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = tuple(bytes([low, 0x2A, 0x4D, 0x18]) for low in range(0x50, 0x60))
MAGIC_BYTES = 4
_PADDING = b"\0"
_ZSTD_WINDOW_LOG = 23
"""8 MiB, what every decompressor must take (RFC 8878, section 3.1.1.1.2) and what `zstd -19` uses;
`--ultra` and `--long` can use more, and a decompressor then keeps as much in memory."""


class Decompressor(Protocol):
    """What the decompressors of zlib and of zstd have in common, zlib's made to fit."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's own decompressor hands back what it has not used; this one keeps it."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self._left = b""
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        made = self._zlib.decompress(self._left + data, max_length)
        self._left = self._zlib.unconsumed_tail
        self.needs_input = not self._left and len(made) < max_length
        return made


def zstd_module() -> Any:
    """Imported where it is needed: few uploads are compressed so."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _zstd(limit_bytes: int) -> "Compressed":
    zstd = zstd_module()
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    new = partial(zstd.ZstdDecompressor, options=options)
    return Compressed("zstd", new, (zstd.ZstdError,), limit_bytes)


_FREE_BYTES, _MOST_TIMES = 8 * 1024 * 1024, 250
"""So much may come out, and so many times of what goes in: of text it is 3 to 20 times. More is a
bomb, with which a few bytes would keep a processor busy for hours."""


class Plain:
    """Bytes that are not compressed."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        yield chunk

    def end(self) -> None:
        """Any byte may be the last."""


class Compressed:
    """One stream after another, as `cat a.gz b.gz` makes them. `limit_bytes` holds for what comes
    out of all of them."""

    def __init__(
        self,
        name: str,
        new: Callable[[], Decompressor],
        errors: tuple[type[Exception], ...],
        limit_bytes: int,
    ) -> None:
        self._name = name
        self._new = new
        self._errors = errors
        self._limit_bytes = limit_bytes
        self._taken_bytes = self._made_bytes = 0
        self._stream: Decompressor | None = None
        self._any_ended = False
        self._padded = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Raises Unreadable, DecompressedTooLarge."""
        for start in range(0, len(chunk), _SLICE_BYTES):
            self._taken_bytes += min(_SLICE_BYTES, len(chunk) - start)
            yield from self._steps(chunk[start : start + _SLICE_BYTES])

    def end(self) -> None:
        """Raises Unreadable if the last stream has no end."""
        if self._stream is not None:
            text = f"the {self._name} stream is cut off; upload the whole file"
            raise Unreadable(FlawCode.COMPRESSION_CUT_OFF, text)

    def _steps(self, data: bytes) -> Iterator[bytes]:
        while data := self._begin(data):
            stream = self._stream = self._stream or self._new()
            yield self._step(stream, data)
            while not (stream.eof or stream.needs_input):
                yield self._step(stream, b"")
            data = stream.unused_data if stream.eof else b""
            if stream.eof:
                self._stream = None
                self._any_ended = True

    def _begin(self, data: bytes) -> bytes:
        """The data without the zeros that may fill up a tape after a stream."""
        if self._stream is None and self._any_ended:
            rest = data.lstrip(_PADDING)
            self._padded = self._padded or len(rest) < len(data)
            if rest and self._padded:
                raise self._damaged("something stands after the end")
            return rest
        return data

    def _step(self, stream: Decompressor, data: bytes) -> bytes:
        try:
            made = stream.decompress(data, max_length=STEP_BYTES)
        except self._errors as error:
            raise self._damaged(str(error)) from error
        self._made_bytes += len(made)
        limit_bytes = min(self._limit_bytes, _FREE_BYTES + _MOST_TIMES * self._taken_bytes)
        if self._made_bytes > limit_bytes:
            raise DecompressedTooLarge(limit_bytes)
        return made

    def _damaged(self, problem: str) -> Unreadable:
        text = f"the {self._name} stream is damaged: {problem}"
        return Unreadable(FlawCode.COMPRESSION_DAMAGED, text)


def decompression(magic: bytes, limit_bytes: int) -> Plain | Compressed:
    """What turns an upload that begins so (MAGIC_BYTES of it, or all) into what it holds."""
    if magic.startswith(GZIP_MAGIC):
        return Compressed("gzip", _Gzip, (zlib.error,), limit_bytes)
    if magic.startswith((ZSTD_MAGIC, *_SKIPPABLE)):
        return _zstd(limit_bytes)
    return Plain()
