"""CSV: what the rules leave no doubt about is read, everything else is named with its line."""

import csv
import io
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataset.domain.containers.choices import ContainerKind, PackingChoice
from services.dataset.domain.containers.entries import Entry, Record
from services.dataset.domain.containers.table import Table
from services.dataset.domain.formats.catalogue import Shape
from services.dataset.domain.lines import MAX_LINE_BYTES
from services.dataset.domain.resources import SourceFormat
from tests.unit.dataset.uploading import examples, faults, outcome

CSV = PackingChoice(ContainerKind.CSV)


def entries(*chunks: bytes) -> list[Entry]:
    table = Table()
    return [*(entry for chunk in chunks for entry in table.feed(chunk)), *table.end()]


def rows(content: bytes) -> list[dict[str, object]]:
    found = entries(content)
    assert all(isinstance(entry, Record) for entry in found), found
    return [entry.row for entry in found if isinstance(entry, Record)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_header_tells_the_delimiter(delimiter: str, ending: str):
    lines = [["prompt", "completion"], ["a", '"b, c; d\te"'], ['""', '"x ""y"""'], []]
    content = ending.join(delimiter.join(line) for line in lines).encode()

    assert rows(content) == [
        {"prompt": "a", "completion": "b, c; d\te"},
        {"prompt": "", "completion": 'x "y"'},
    ]


def test_a_record_has_its_first_line_and_its_offset():
    content = b'\xef\xbb\xbf"text"\r\n\r\n"two\r\nlines"\r\none\r\n'

    assert entries(content) == [
        Record(3, {"text": "two\r\nlines"}, 13),
        Record(5, {"text": "one"}, 27),
    ]


def test_a_delimiter_in_a_quoted_name_is_none():
    assert rows(b'"a,b,c";d\n1;2\n') == [{"a,b,c": "1", "d": "2"}]


def test_tables_of_the_usual_formats_are_told_by_their_header():
    alpaca = b"instruction,input,output\nAdd.,1 and 2,3\nSay hello.,,Hello.\n"
    lines = [
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "Say hello.", "input": "", "output": "Hello."},
    ]

    assert examples(alpaca) == examples("\n".join(map(json.dumps, lines)).encode())
    assert len(examples(b"prompt;completion\na;b\n")) == 1


def test_a_table_with_named_columns_is_taken_as_it_is():
    shape = Shape(SourceFormat.PROMPT_COMPLETION, {"prompt": "question", "completion": "answer"})

    assert outcome(b"id,question,answer\n1,a,b\n2,c,d\n", shape=shape) == 2
    assert [fault.pointer for fault in faults(b"question,answer\n,b\n", shape=shape)] == [
        "/question"
    ]


def test_a_column_of_texts_is_a_table_if_the_caller_says_so():
    assert outcome(b"text\nAll parcels are blue.\n", choice=CSV) == 1
    assert outcome(b"text\nAll parcels are blue.\n") == [(1, "NOT_JSON"), (2, "NOT_JSON")]


HEADER = b"prompt,completion\n"
FAULTY = [
    (HEADER + b"a\nb,c\nd,e,f\n", [(2, "WRONG_FIELD_COUNT"), (4, "WRONG_FIELD_COUNT")]),
    (HEADER + b'a,b\n"c\nd,e\n', [(3, "QUOTE_NOT_CLOSED")]),
    (HEADER + b'a,5" pipe\nb,c\n,d\n', [(2, "STRAY_QUOTE"), (4, "EMPTY")]),
    (HEADER + b'"a" ,b\nb,c,d\n', [(2, "STRAY_QUOTE"), (3, "WRONG_FIELD_COUNT")]),
    (HEADER + b'"x\ny" z,b\n', [(2, "STRAY_QUOTE")]),
    (HEADER + b"a\rb,c\n", [(2, "STRAY_RETURN")]),
    (HEADER + b"a,\xff\n\xe4,\xfc\n,c\n", [(2, "NOT_UTF8"), (3, "NOT_UTF8"), (4, "EMPTY")]),
    (HEADER + b"a,b\0c\n", [(2, "NOT_TEXT")]),
    (b"prompt,prompt,completion\na,b,c\n", [(1, "DUPLICATE_COLUMN")]),
    (b"\nprompt,,completion,\na,b,c,d\n", [(2, "EMPTY_COLUMN_NAME")] * 2),
    (b'prompt,"completion\na,b\n', [(1, "QUOTE_NOT_CLOSED")]),
    (HEADER + b"x" * (MAX_LINE_BYTES + 1) + b"\na,b,c\n", [(2, "LINE_TOO_LONG")]),
    (HEADER + b'a,"b\n' + b"xxxxxxx\n" * (MAX_LINE_BYTES // 8), [(2, "QUOTE_NOT_CLOSED")]),
    (HEADER, "EMPTY_UPLOAD"),
]


@pytest.mark.parametrize(("content", "expected"), FAULTY)
def test_what_is_in_doubt_is_named(content: bytes, expected: object):
    assert outcome(content, choice=CSV) == expected


def test_a_fault_points_to_its_column_and_place():
    [fault] = faults(HEADER + b'a,5" pipe\n')

    assert (fault.pointer, fault.byte_offset) == ("/completion", len(HEADER))


def test_many_short_lines_in_one_field_are_read_in_one_go():
    content = HEADER + b'a,"' + b"\n" * 100_000 + b'"\n'

    assert outcome(content) == 1


cells = st.text('a,;"\n\r é', max_size=6)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(cells, cells), max_size=4),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_what_another_writes_is_read(table: list[tuple[str, str]], delimiter: str, quoting: int):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
    writer.writerow(["one", "two"])
    writer.writerows(table)

    assert rows(file.getvalue().encode()) == [{"one": one, "two": two} for one, two in table]


@settings(max_examples=100, deadline=None)
@given(st.text('a,"\r\n', max_size=30), st.lists(st.integers(0, 40)))
def test_where_chunks_begin_and_end_makes_no_difference(text: str, cuts: list[int]):
    content = b"one,two\n" + text.encode()
    bounds = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]

    assert entries(*[content[start:end] for start, end in pairwise(bounds)]) == entries(content)


def test_a_header_has_as_many_columns_as_a_table_may_have():
    wide = ",".join(f"c{number}" for number in range(1001)).encode()

    assert outcome(wide + b"\n", choice=CSV) == [(1, "WRONG_FIELD_COUNT")]
    assert outcome(b"," * 1_000_000 + b"\n", choice=CSV) == [(1, "WRONG_FIELD_COUNT")]
