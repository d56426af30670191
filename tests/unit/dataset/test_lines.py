from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.dataset.domain.lines import MAX_LINE_BYTES, Line, LineSplitter


def split(*chunks: bytes) -> list[Line]:
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return [*lines, *splitter.end()]


def texts(*chunks: bytes) -> list[bytes | None]:
    return [line.text for line in split(*chunks)]


def test_lines_are_numbered_from_one():
    assert split(b"a\nb\n") == [Line(1, b"a", 0), Line(2, b"b", 2)]


def test_the_last_line_needs_no_ending():
    assert texts(b"a\nb") == [b"a", b"b"]


def test_nothing_has_no_lines():
    assert texts() == []
    assert texts(b"") == []


def test_crlf_ends_a_line_and_a_lone_carriage_return_does_not():
    assert texts(b"a\r\nb\rc\r\n") == [b"a", b"b\rc"]


def test_a_byte_order_mark_is_dropped_at_the_very_beginning_only():
    mark = b"\xef\xbb\xbf"
    assert texts(mark + b"a\n" + mark + b"b") == [b"a", mark + b"b"]
    assert texts(*(bytes([byte]) for byte in mark + b"a")) == [b"a"]


def test_a_line_of_the_greatest_length_is_read_with_any_ending():
    longest = b"x" * MAX_LINE_BYTES
    assert texts(b"\xef\xbb\xbf" + longest + b"\r\n" + longest + b"\n" + longest) == [longest] * 3


def test_a_line_of_the_greatest_length_is_read_with_its_ending_in_another_chunk():
    longest = b"x" * MAX_LINE_BYTES
    assert texts(b"\xef\xbb\xbf" + longest + b"\r", b"\n" + longest + b"\r", b"\n") == [longest] * 2


def test_a_line_one_byte_longer_is_not_and_the_next_one_is():
    too_long = b"x" * (MAX_LINE_BYTES + 1)
    assert split(too_long + b"\r\nb") == [Line(1, None, 0), Line(2, b"b", len(too_long) + 2)]
    assert split(too_long) == [Line(1, None, 0)]


def test_a_line_without_end_takes_no_more_memory_than_the_longest():
    splitter = LineSplitter()
    for _ in range(64):
        assert list(splitter.feed(b"x" * 256 * 1024)) == []
        assert len(splitter._begun) <= 2 * MAX_LINE_BYTES
    assert list(splitter.feed(b"\nb\n")) == [Line(1, None, 0), Line(2, b"b", 64 * 256 * 1024 + 1)]


@given(st.text(alphabet="ab\r\n\ufeff", max_size=60), st.lists(st.integers(0, 80)))
def test_where_chunks_begin_and_end_makes_no_difference(text: str, cuts: list[int]):
    content = text.encode()
    bounds = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    chunks = [content[start:end] for start, end in pairwise(bounds)]

    assert split(*chunks) == split(content)


@given(st.text(alphabet="ab\r\né", max_size=60), st.lists(st.integers(0, 80)), st.booleans())
def test_a_lines_offset_is_where_it_begins(text: str, cuts: list[int], keep_returns: bool):
    content = text.encode()
    bounds = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    splitter = LineSplitter(keep_returns=keep_returns)

    lines = [line for a, b in pairwise(bounds) for line in splitter.feed(content[a:b])]
    lines += splitter.end()

    for line in lines:
        assert line.number == content[: line.offset].count(b"\n") + 1
        whole = content[line.offset :].partition(b"\n")[0]
        assert line.text == (whole if keep_returns else whole.removesuffix(b"\r"))
