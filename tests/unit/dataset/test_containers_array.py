"""JSON arrays: each element by its line and place, each fault of the array by its own name."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataset.domain.containers.entries import Broken, Entry
from services.dataset.domain.containers.json_array import JsonArray
from services.dataset.domain.lines import MAX_LINE_BYTES, Line


def entries(*chunks: bytes) -> list[Entry]:
    array = JsonArray()
    return [*(entry for chunk in chunks for entry in array.feed(chunk)), *array.end()]


def found(*chunks: bytes) -> list[tuple[int, bytes | str | None, int | None]]:
    """By number and offset: the text of an element, or the code of what is wrong."""
    return [
        (entry.number, entry.flaws[0].code.value, entry.offset)
        if isinstance(entry, Broken)
        else (entry.number, entry.text, entry.offset)
        for entry in entries(*chunks)
    ]


def test_each_element_has_its_first_line_and_its_offset():
    content = b'\xef\xbb\xbf\r\n[\n  {"a":\n 1},\n {"b": [{}, "]}"]}\n]\n'

    assert found(content) == [(3, b'{"a":\n 1}', 9), (5, b'{"b": [{}, "]}"]}', 21)]
    assert content[21:].startswith(b'{"b"')


def test_an_empty_array_has_no_elements():
    assert found(b"[]") == []
    assert found(b" [ \n ] \n") == []


def test_any_json_value_is_an_element():
    text = b'[1,-2e3 ,true,null,"a,\\"]","",[],{},[[{}]]]'

    assert [text for _, text, _ in found(text)] == [
        b"1", b"-2e3", b"true", b"null", b'"a,\\"]"', b'""', b"[]", b"{}", b"[[{}]]",
    ]  # fmt: skip


FAULTY: list[tuple[bytes, list[tuple[int, str, int]]]] = [
    (b"", [(1, "ARRAY_NOT_CLOSED", 0)]),
    (b"[\n", [(2, "ARRAY_NOT_CLOSED", 2)]),
    (b"[\n{}", [(2, "{}", 2), (2, "ARRAY_NOT_CLOSED", 4)]),
    (b"[{},\n", [(1, "{}", 1), (2, "ARRAY_NOT_CLOSED", 5)]),
    (b"[1", [(1, "1", 1), (1, "ARRAY_NOT_CLOSED", 2)]),
    (b'[{"a": "\n\n', [(3, "ARRAY_NOT_CLOSED", 10)]),
    (b"[{}]\n{}", [(1, "{}", 1), (2, "AFTER_ARRAY", 5)]),
    (b"[{}]]]]", [(1, "{}", 1), (1, "AFTER_ARRAY", 4)]),
    (b"[{}\n{}]", [(1, "{}", 1), (2, "MISSING_COMMA", 4), (2, "{}", 4)]),
    (b'["a" 1]', [(1, '"a"', 1), (1, "MISSING_COMMA", 5), (1, "1", 5)]),
    (b"[{},\n]", [(1, "{}", 1), (2, "MISSING_ELEMENT", 5)]),
    (b"[,{}]", [(1, "MISSING_ELEMENT", 1), (1, "{}", 2)]),
    (b"[{},,{}]", [(1, "{}", 1), (1, "MISSING_ELEMENT", 4), (1, "{}", 5)]),
    (b'["a": 1, {}]', [(1, '"a"', 1), (1, "NOT_JSON", 4)]),
    (b"[}, {}]", [(1, "NOT_JSON", 1)]),
    (b"{}", [(1, "NOT_JSON", 0)]),
    (b"[\x0b\x0b, {}]", [(1, "\x0b\x0b", 1), (1, "{}", 5)]),
]


@pytest.mark.parametrize(("content", "expected"), FAULTY)
def test_what_is_wrong_with_the_array_is_named(
    content: bytes, expected: list[tuple[int, str, int]]
):
    shown = [
        (line, text.decode() if isinstance(text, bytes) else text, offset)
        for line, text, offset in found(content)
    ]

    assert shown == expected


def test_an_element_too_long_is_named_and_the_next_one_is_read():
    longest = b'"' + b"x" * (MAX_LINE_BYTES - 2) + b'"'
    too_long = b'{"a": "' + b"\\\\x" * MAX_LINE_BYTES + b'"}'

    assert found(b"[" + longest + b",\n" + too_long + b",\n1]") == [
        (1, longest, 1),
        (2, None, len(longest) + 3),
        (3, b"1", len(longest) + len(too_long) + 5),
    ]


@pytest.mark.parametrize("opening", [b'["', b"[{", b"[1", b'[{"a": ["b", ', b"["])
def test_an_array_without_end_takes_no_more_memory_than_the_longest_element(opening: bytes):
    array = JsonArray()
    list(array.feed(opening))
    for _ in range(16):
        list(array.feed(b" " * 128 + b"1" * 256 * 1024))
        assert len(array._data) <= 2 * MAX_LINE_BYTES
    assert isinstance(list(array.end())[-1], Broken)


def test_a_string_of_escapes_is_scanned_once():
    content = b'["' + b"\\\\" * 200_000 + b'\\"", 1]'

    pieces = [content[at : at + 9999] for at in range(0, len(content), 9999)]

    assert [text for _, text, _ in found(*pieces)] == [content[1:-4], b"1"]


texts = st.text('a"\\[]{},:\n\ufeffé', max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(values, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_the_elements_are_those_that_a_parser_finds(
    elements: list[Any], indent: int | None, ascii_only: bool
):
    content = json.dumps(elements, indent=indent, ensure_ascii=ascii_only).encode()

    lines = entries(content)

    assert all(isinstance(line, Line) for line in lines)
    assert [json.loads(line.text or b"") for line in lines] == elements
    for line in lines:
        assert content[line.offset :].startswith(line.text or b"?")
        assert line.number == 1 + content[: line.offset].count(b"\n")


@settings(max_examples=150, deadline=None)
@given(st.text('[]{}",:\\1a \n', max_size=30), st.lists(st.integers(0, 30)))
def test_where_chunks_begin_and_end_makes_no_difference(text: str, cuts: list[int]):
    content = b"[" + text.encode()
    bounds = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    chunks = [content[start:end] for start, end in pairwise(bounds)]

    assert entries(*chunks) == entries(content)


@settings(max_examples=150, deadline=None)
@given(st.text('[]{}",:\\1 \n', max_size=12))
def test_what_has_no_fault_is_what_a_parser_accepts(text: str):
    """But for what is wrong within an element, which is told when that is read."""
    content = b"[" + text.encode()
    found_entries = entries(content)
    try:
        elements = [json.loads(entry.text or b"") for entry in found_entries]
    except (ValueError, AttributeError):
        elements = None
    try:
        assert elements == json.loads(content)
    except ValueError:
        assert elements is None
