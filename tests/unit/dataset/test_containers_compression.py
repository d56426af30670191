"""Compressed uploads: read as they arrive, never much at once, never more than is allowed."""

import gzip
import json
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataset.domain.containers.compression import (
    STEP_BYTES,
    decompression,
    zstd_module,
)
from services.dataset.domain.containers.reading import Unreadable
from services.dataset.domain.errors import DecompressedTooLarge
from tests.unit.dataset.uploading import examples, outcome

zstd = zstd_module()

LINES = b"".join(b'{"prompt": "%d", "completion": "b"}\n' % number for number in range(3000))
COMPRESS = {"gzip": gzip.compress, "zstd": zstd.compress}
GIBIBYTE = 1024**3

each_compression = pytest.mark.parametrize("name", COMPRESS)


def decompressed(*chunks: bytes, limit_bytes: int = GIBIBYTE) -> list[bytes]:
    found = decompression(b"".join(chunks)[:4], limit_bytes)
    made = [piece for chunk in chunks for piece in found.feed(chunk)]
    found.end()
    return made


@each_compression
def test_a_compressed_upload_holds_what_the_plain_one_holds(name: str):
    assert examples(COMPRESS[name](LINES)) == examples(LINES)
    array = json.dumps([json.loads(line) for line in LINES.splitlines()]).encode()
    assert examples(COMPRESS[name](array)) == examples(LINES)


@each_compression
def test_streams_one_after_another_are_one(name: str):
    compress = COMPRESS[name]
    content = compress(LINES[:1000]) + compress(b"") + compress(LINES[1000:])

    assert b"".join(decompressed(content)) == LINES


def test_zeros_may_fill_up_what_follows_the_end():
    assert b"".join(decompressed(gzip.compress(LINES) + b"\0" * 100_000)) == LINES


def test_a_skippable_frame_holds_nothing():
    frame = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"

    assert b"".join(decompressed(frame + zstd.compress(LINES) + frame)) == LINES


@each_compression
def test_no_step_makes_much_of_a_bomb(name: str):
    bomb = COMPRESS[name](b" " * 6 * 1024 * 1024)

    sizes = [len(piece) for piece in decompressed(bomb)]

    assert max(sizes) <= STEP_BYTES
    assert sum(sizes) == 6 * 1024 * 1024


@each_compression
def test_a_bomb_is_told_by_how_much_comes_of_little(name: str):
    bomb = COMPRESS[name](b'"{\n' * 16 * 1024 * 1024)

    with pytest.raises(DecompressedTooLarge) as caught:
        decompressed(bomb)
    assert caught.value.reason == "DECOMPRESSED_TOO_LARGE"


@each_compression
def test_the_limit_holds_for_what_comes_out(name: str):
    content = COMPRESS[name](LINES)

    assert b"".join(decompressed(content, limit_bytes=len(LINES))) == LINES
    with pytest.raises(DecompressedTooLarge) as caught:
        decompressed(content, limit_bytes=len(LINES) - 1)
    assert caught.value.reason == "DECOMPRESSED_TOO_LARGE"
    assert outcome(content, limit_bytes=len(LINES) - 1) == "DECOMPRESSED_TOO_LARGE"


@each_compression
def test_the_limit_holds_for_all_streams_together(name: str):
    with pytest.raises(DecompressedTooLarge):
        decompressed(COMPRESS[name](LINES) * 2, limit_bytes=len(LINES) + 1)


@each_compression
def test_a_stream_that_is_cut_off_is_named_with_the_line_that_was_reached(name: str):
    content = COMPRESS[name](LINES)

    found = outcome(content[:-9])

    assert isinstance(found, list)
    [(line, code)] = found
    assert code == "COMPRESSION_CUT_OFF"
    assert 1 <= line <= 3001


@pytest.mark.parametrize("cut", [4, 8, 12])
@each_compression
def test_a_stream_may_be_cut_off_anywhere(name: str, cut: int):
    assert outcome(COMPRESS[name](LINES)[:cut]) == [(1, "COMPRESSION_CUT_OFF")]


@each_compression
def test_a_stream_that_is_damaged_is_named(name: str):
    content = bytearray(COMPRESS[name](LINES))
    content[-4] ^= 255

    damaged = "COMPRESSION_DAMAGED" if name == "gzip" else None
    assert [code for _, code in outcome(bytes(content))] == [damaged or "COMPRESSION_DAMAGED"]


@each_compression
def test_what_stands_behind_the_end_is_named(name: str):
    with pytest.raises(Unreadable, match="COMPRESSION_DAMAGED"):
        decompressed(COMPRESS[name](LINES) + b"hello")
    with pytest.raises(Unreadable, match="COMPRESSION_DAMAGED"):
        decompressed(COMPRESS[name](LINES) + b"\0\0" + COMPRESS[name](LINES))


def test_a_window_larger_than_decompressors_must_have_is_refused():
    options = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=options)
    content = compressor.compress(LINES) + compressor.flush()

    assert outcome(content) == [(1, "COMPRESSION_DAMAGED")]


def test_what_is_compressed_twice_is_told_so():
    assert outcome(gzip.compress(zstd.compress(LINES))) == [(1, "UNKNOWN_CONTAINER")]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(list(COMPRESS)), st.lists(st.integers(0, 400)))
def test_where_chunks_begin_and_end_makes_no_difference(name: str, cuts: list[int]):
    content = COMPRESS[name](LINES[:2000]) * 2
    bounds = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]

    made = decompressed(*[content[start:end] for start, end in pairwise(bounds)])

    assert b"".join(made) == LINES[:2000] * 2


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40), st.sampled_from([b"\x1f\x8b", b"\x28\xb5\x2f\xfd"]))
def test_no_bytes_break_a_decompressor(content: bytes, magic: bytes):
    try:
        decompressed(magic + content)
    except (Unreadable, DecompressedTooLarge):
        return
    assert magic.startswith((b"\x1f", b"\x28"))


def test_raw_deflate_is_no_compression_that_is_told():
    assert decompressed(zlib.compress(LINES)) == [zlib.compress(LINES)]
