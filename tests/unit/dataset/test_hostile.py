"""Files that are wrong, on purpose or by mistake: each is refused with the right line and name.

Each has a name, its bytes, and what is to be said about it: the lines and codes of its faults; the
reason for which it is refused as a whole; or how many examples it holds, where it only looks wrong.
"""

import gzip
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.dataset.domain.containers.choices import ContainerKind, PackingChoice
from services.dataset.domain.containers.compression import zstd_module
from services.dataset.domain.lines import MAX_LINE_BYTES
from services.dataset.domain.strict_json import MAX_DEPTH
from tests.unit.dataset.uploading import document, outcome

zstd = zstd_module()

Expected = list[tuple[int, str]] | str | int

BOM = b"\xef\xbb\xbf"
PAIR = b'{"prompt": "a", "completion": "b"}'
CHAT = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
HEADER = b"prompt,completion\n"


def pair(prompt: bytes) -> bytes:
    return b'{"prompt": %s, "completion": "b"}' % prompt


def lines(*rows: bytes) -> bytes:
    return b"\n".join(rows)


def chat(*turns: object) -> bytes:
    return json.dumps({"messages": turns}).encode()


def parquet(table: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
PAIRS = parquet(pa.table({"prompt": ["a", "b"], "completion": ["c", "d"]}))

LINES: dict[str, tuple[bytes, Expected]] = {
    "nothing": (b"", "EMPTY_UPLOAD"),
    "blank lines": (b"\n\r\n \t\n", "EMPTY_UPLOAD"),
    "only a byte order mark": (BOM, "EMPTY_UPLOAD"),
    "byte order mark": (BOM + PAIR, 1),
    "byte order mark within": (lines(PAIR, BOM + PAIR), [(2, "NOT_JSON")]),
    "CRLF": (PAIR + b"\r\n" + PAIR + b"\r\n", 2),
    "CRLF and LF": (PAIR + b"\r\n{\n" + PAIR, [(2, "NOT_JSON")]),
    "CR alone": (PAIR + b"\r" + PAIR, [(1, "NOT_JSON")]),
    "line separator of Unicode": (PAIR + "\u2028".encode() + PAIR, [(1, "NOT_JSON")]),
    "line separator in a string": (pair('"\u2028\x85"'.encode()), 1),
    "UTF-16 with a mark": (PAIR.decode().encode("utf-16"), [(1, "NOT_UTF8")]),
    "UTF-16, big end first, with a mark": (
        b"\xfe\xff" + PAIR.decode().encode("utf-16-be"),
        [(1, "NOT_UTF8")],
    ),
    "UTF-16 without a mark": (PAIR.decode().encode("utf-16-le"), [(1, "NOT_UTF8")]),
    "UTF-32": (PAIR.decode().encode("utf-32"), [(1, "NOT_UTF8")]),
    "Latin-1": (lines(PAIR, pair(b'"\xe4"')), [(2, "NOT_UTF8")]),
    "UTF-8 cut off at the end": (pair(b'"a"') + b'\n{"prompt": "\xc3', [(2, "NOT_UTF8")]),
    "UTF-8 cut off by a quote": (pair(b'"\xe2\x82"'), [(1, "NOT_UTF8")]),
    "a surrogate in UTF-8": (pair(b'"\xed\xa0\x80"'), [(1, "NOT_UTF8")]),
    "an overlong slash": (pair(b'"\xc0\xaf"'), [(1, "NOT_UTF8")]),
    "beyond Unicode": (pair(b'"\xf4\x90\x80\x80"'), [(1, "NOT_UTF8")]),
    "half a surrogate pair": (lines(PAIR, pair(rb'"\ud800"')), [(2, "LONE_SURROGATE")]),
    "surrogates the wrong way round": (pair(rb'"\udc00\ud800"'), [(1, "LONE_SURROGATE")]),
    "NUL in a string": (pair(b'"a\0b"'), [(1, "NOT_JSON")]),
    "NUL between lines": (PAIR + b"\n\0\n" + PAIR, [(2, "NOT_JSON")]),
    "a page of NULs at the end": (PAIR + b"\n" + bytes(4096), [(2, "NOT_JSON")]),
    "a tab in a string": (pair(b'"a\tb"'), [(1, "NOT_JSON")]),
    "1e999": (lines(PAIR, b'{"prompt": 1e999, "completion": "b"}'), [(2, "NOT_A_FINITE_NUMBER")]),
    "NaN": (pair(b"NaN"), [(1, "NOT_A_FINITE_NUMBER")]),
    "a number of 5,000 digits": (pair(b"9" * 5000), [(1, "NOT_A_FINITE_NUMBER")]),
    "a key twice": (b'{"prompt": "a", "prompt": "a", "completion": "b"}', [(1, "DUPLICATE_KEY")]),
    "a key twice, once escaped": (
        rb'{"prompt": "a", "\u0070rompt": "c", "completion": "b"}',
        [(1, "DUPLICATE_KEY")],
    ),
    "nesting": (pair(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH), [(1, "TOO_DEEP")]),
    "nesting without end": (lines(PAIR, b'{"a":' * 100_000), [(2, "TOO_DEEP")]),
    "single quotes": (b"{'prompt': 'a', 'completion': 'b'}", [(1, "NOT_JSON")]),
    "a comma too many": (b'{"prompt": "a", "completion": "b",}', [(1, "NOT_JSON")]),
    "a comment": (lines(b'{"prompt": "a", // a', PAIR), [(1, "NOT_JSON")]),
    "two objects in a line": (PAIR + PAIR, [(1, "NOT_JSON")]),
    "an object over two lines": (PAIR.replace(b", ", b",\n"), [(1, "NOT_JSON"), (2, "NOT_JSON")]),
    "a file cut off": (lines(PAIR, PAIR[:-8]), [(2, "NOT_JSON")]),
    "lines of an array": (lines(PAIR + b",", PAIR), [(1, "NOT_JSON")]),
    "values that are no objects": (
        lines(PAIR, b"7", b'"a"', b"null", b"[]"),
        [(2, "NOT_AN_OBJECT"), (3, "NOT_AN_OBJECT"), (4, "NOT_AN_OBJECT"), (5, "NOT_AN_OBJECT")],
    ),
    "a page of an error": (b"<html><body>502</body></html>", [(1, "UNKNOWN_CONTAINER")]),
    "a picture": (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        [(1, "NOT_UTF8"), (2, "NOT_JSON"), (3, "NOT_JSON")],
    ),
    "a ZIP archive": (b"PK\x03\x04" + bytes(30), [(1, "UNKNOWN_CONTAINER")]),
    "a PDF file": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", [(1, "UNKNOWN_CONTAINER")]),
    "two formats": (
        lines(PAIR, CHAT),
        [(2, "UNKNOWN_FIELD"), (2, "MISSING_FIELD"), (2, "MISSING_FIELD")],
    ),
    "two formats in a line": (
        CHAT[:-1] + b', "text": "a"}',
        [(1, "UNKNOWN_FIELD")],
    ),
    "an empty answer": (lines(PAIR, b'{"prompt": "a", "completion": ""}'), [(2, "EMPTY")]),
    "an answer that is null": (b'{"prompt": "a", "completion": null}', [(1, "WRONG_TYPE")]),
    "an answer that is a number": (b'{"prompt": "a", "completion": 7}', [(1, "WRONG_TYPE")]),
    "no messages": (b'{"messages": []}', [(1, "EMPTY")]),
    "an unknown role": (chat(USER, {"role": "bot", "content": "b"}), [(1, "UNKNOWN_ROLE")]),
    "nothing to learn": (chat(USER), [(1, "NO_ASSISTANT_TURN")]),
    "an answer before the question": (chat(ASSISTANT), [(1, "ROLE_ORDER")]),
    "a question at the end": (chat(USER, ASSISTANT, USER), [(1, "ROLE_ORDER")]),
    "weight zero everywhere": (
        chat(USER, {**ASSISTANT, "weight": 0}),
        [(1, "NO_ASSISTANT_TURN")],
    ),
    "a weight of true": (chat(USER, {**ASSISTANT, "weight": True}), [(1, "WRONG_TYPE")]),
    "a weight below zero": (chat(USER, {**ASSISTANT, "weight": -1}), [(1, "OUT_OF_RANGE")]),
    "an answer of a tool that nobody called": (
        chat(USER, {"role": "tool", "content": "a", "tool_call_id": "x"}, ASSISTANT),
        [(1, "ROLE_ORDER")],
    ),
}  # fmt: skip

PACKED: dict[str, tuple[bytes, Expected]] = {
    "an array": (b"[\n" + PAIR + b",\n" + PAIR + b"\n]\n", 2),
    "an array without end": (lines(b"[", PAIR + b","), [(2, "ARRAY_NOT_CLOSED")]),
    "an array cut off in an element": (lines(b"[", PAIR[:20]), [(2, "ARRAY_NOT_CLOSED")]),
    "an array without a comma": (lines(b"[", PAIR, PAIR, b"]"), [(3, "MISSING_COMMA")]),
    "an array with a comma too many": (lines(b"[", PAIR + b",", b"]"), [(3, "MISSING_ELEMENT")]),
    "something behind an array": (lines(b"[", PAIR, b"]", PAIR), [(4, "AFTER_ARRAY")]),
    "an array with a bad element": (
        lines(b"[", PAIR + b",", b'{"prompt": 1e999},', b"7,", PAIR + b"]"),
        [(3, "NOT_A_FINITE_NUMBER"), (4, "NOT_AN_OBJECT")],
    ),
    "an array of arrays without end": (b"[" * 100_000, [(1, "ARRAY_NOT_CLOSED")]),
    "an array in UTF-16": ("[]".encode("utf-16-le"), [(1, "NOT_UTF8")]),
    "an empty array": (b"[]", "EMPTY_UPLOAD"),
    "a table": (HEADER + b"a,b\r\n", 1),
    "a table with a lone quote": (HEADER + b'a,b\nc,5" pipe\n', [(3, "STRAY_QUOTE")]),
    "a table with a quote not closed": (HEADER + b'a,b\nc,"d\ne,f\n', [(3, "QUOTE_NOT_CLOSED")]),
    "a table with a field too many": (HEADER + b"a,b,c\n", [(2, "WRONG_FIELD_COUNT")]),
    "a table with a column twice": (b"prompt,prompt\na,b\n", [(1, "DUPLICATE_COLUMN")]),
    "a table with NUL": (HEADER + b"a,\0\n", [(2, "NOT_TEXT")]),
    "a table in UTF-16": ((HEADER + b"a,b\n").decode().encode("utf-16"), [(1, "NOT_UTF8")]),
    "a table without rows": (HEADER, "EMPTY_UPLOAD"),
    "gzip cut off": (gzip.compress(PAIR)[:-4], [(1, "COMPRESSION_CUT_OFF")]),
    "gzip without content": (gzip.compress(b"")[:10], [(1, "COMPRESSION_CUT_OFF")]),
    "gzip of nothing": (gzip.compress(b""), "EMPTY_UPLOAD"),
    "gzip damaged": (gzip.compress(PAIR)[:-8] + bytes(8), [(1, "COMPRESSION_DAMAGED")]),
    "gzip in gzip": (gzip.compress(gzip.compress(PAIR)), [(1, "UNKNOWN_CONTAINER")]),
    "gzip of UTF-16": (gzip.compress(PAIR.decode().encode("utf-16")), [(1, "NOT_UTF8")]),
    "zstd cut off": (zstd.compress(PAIR)[:-4], [(1, "COMPRESSION_CUT_OFF")]),
    "zstd damaged": (zstd.compress(PAIR)[:-1] + b"!" * 9, [(1, "COMPRESSION_DAMAGED")]),
    "Parquet": (PAIRS, 2),
    "Parquet compressed": (gzip.compress(PAIRS), 2),
    "Parquet cut off": (PAIRS[:-9], [(1, "CONTAINER_DAMAGED")]),
    "Parquet with another end": (PAIRS[:-12] + b"\xff" * 8 + b"PAR1", [(1, "CONTAINER_DAMAGED")]),
    "Parquet by its name alone": (b"PAR1PAR1", [(1, "CONTAINER_DAMAGED")]),
}  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), LINES.values(), ids=LINES)
def test_a_hostile_line_is_named(content: bytes, expected: Expected):
    assert outcome(content) == expected


@pytest.mark.parametrize(("content", "expected"), PACKED.values(), ids=PACKED)
def test_a_hostile_container_is_named(content: bytes, expected: Expected):
    assert outcome(content) == expected


NAMED: dict[str, tuple[bytes, PackingChoice, Expected]] = {
    "lines called an array": (
        PAIR, PackingChoice(ContainerKind.JSON_ARRAY), [(1, "NOT_JSON")]
    ),
    "an array called lines": (
        b"[\n" + PAIR + b"\n]",
        PackingChoice(ContainerKind.JSON_LINES),
        [(1, "NOT_JSON"), (3, "NOT_JSON")],
    ),
    "lines called Parquet": (
        PAIR, PackingChoice(ContainerKind.PARQUET), [(1, "CONTAINER_DAMAGED")]
    ),
    "lines called a table": (
        PAIR, PackingChoice(ContainerKind.CSV), [(1, "STRAY_QUOTE"), (1, "STRAY_QUOTE")]
    ),
    "a document in UTF-16": ("a".encode("utf-16"), document(), [(1, "NOT_UTF8")]),
    "a document with NUL": (b"a\0", document(), [(1, "NOT_TEXT")]),
    "a document that is a damaged PDF file": (
        b"%PDF-1.7", document(), [(1, "CONTAINER_DAMAGED")]
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "choice", "expected"), NAMED.values(), ids=NAMED)
def test_a_file_that_is_not_what_it_is_called_is_named(
    content: bytes, choice: PackingChoice, expected: Expected
):
    assert outcome(content, choice=choice) == expected


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_change_of_a_byte_breaks_the_intake(data: st.DataObject):
    """Whatever comes of it is an answer that an API can give."""
    corpus = [content for content, _ in (*LINES.values(), *PACKED.values())]
    content = bytearray(data.draw(st.sampled_from([row for row in corpus if 0 < len(row) < 1000])))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assume(not content.startswith(b"PAR1"))

    found = outcome(bytes(content))

    if isinstance(found, list):
        assert all(1 <= line <= content.count(b"\n") + 1 for line, _ in found) or (
            content.startswith((b"\x1f\x8b", b"\x28\xb5"))
        )


def test_the_corpus_is_large():
    assert len(LINES) + len(PACKED) + len(NAMED) >= 60


MEBIBYTE = 1024 * 1024


def long_line(size_bytes: int, around: tuple[bytes, bytes]) -> Iterator[bytes]:
    """One line of so many bytes with a good one before and a bad one behind."""
    before, after = around
    yield before
    yield from itertools.repeat(b"x" * MEBIBYTE, size_bytes // MEBIBYTE)
    yield after


def test_a_gibibyte_in_one_line_is_named():
    around = PAIR + b'\n{"a": "', b'"}\n{\n'

    found = outcome(long_line(1024 * MEBIBYTE, around))

    assert found == [(2, "LINE_TOO_LONG"), (3, "NOT_JSON")]


@pytest.mark.parametrize(
    ("around", "expected"),
    [
        ((b"[" + PAIR + b',\n{"a": "', b'"},\n7]'), [(2, "LINE_TOO_LONG"), (3, "NOT_AN_OBJECT")]),
        ((HEADER + b"a,", b"\n"), [(2, "LINE_TOO_LONG")]),
        ((HEADER + b'a,"', b'"\n'), [(2, "LINE_TOO_LONG")]),
    ],
    ids=["array", "table", "table, in quotes"],
)
def test_a_row_without_end_is_named(around: tuple[bytes, bytes], expected: Expected):
    assert outcome(long_line(32 * MEBIBYTE, around)) == expected


def gzip_bomb(size_bytes: int) -> Iterable[bytes]:
    """A stream of so many blanks, a thousandth as large."""
    one = gzip.compress(b" " * 16 * MEBIBYTE)
    return itertools.repeat(one, size_bytes // (16 * MEBIBYTE))


def test_a_gzip_bomb_ends_at_the_limit():
    assert outcome(gzip_bomb(1024 * MEBIBYTE), limit_bytes=64 * MEBIBYTE) == (
        "DECOMPRESSED_TOO_LARGE"
    )


def test_a_bomb_of_one_line_is_one_fault():
    found = outcome(
        [gzip.compress(b" " * 6 * MEBIBYTE)], choice=PackingChoice(ContainerKind.JSON_LINES)
    )

    assert found == [(1, "LINE_TOO_LONG")]
    assert 64 * MEBIBYTE > MAX_LINE_BYTES
