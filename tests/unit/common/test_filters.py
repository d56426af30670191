"""The filter language: AIP-160's precedence, declared fields only, and errors that help."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.faults import InvalidArgument
from services.common.filters import (
    ENUM,
    MAP,
    NUMBER,
    TEXT,
    TIME,
    And,
    Comparison,
    Filter,
    Not,
    Or,
    parse,
)

FIELDS = {
    "name": TEXT,
    "state": ENUM(["RUNNING", "FAILED"]),
    "steps": NUMBER,
    "create_time": TIME,
    "labels": MAP,
}


def steps(value: int) -> Comparison:
    return Comparison("steps", "=", value)


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_a_blank_filter_is_no_filter(text: str):
    assert parse(text, FIELDS) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps = 1 AND steps = 2 OR steps = 3", And((steps(1), Or((steps(2), steps(3)))))),
        ("steps = 1 OR steps = 2 AND steps = 3", And((Or((steps(1), steps(2))), steps(3)))),
        ("(steps = 1 AND steps = 2) OR steps = 3", Or((And((steps(1), steps(2))), steps(3)))),
        ("NOT steps = 1 OR steps = 2", Or((Not(steps(1)), steps(2)))),
        ("NOT (steps = 1 OR steps = 2)", Not(Or((steps(1), steps(2))))),
        ("steps=1 AND steps=2 AND steps=3", And((steps(1), steps(2), steps(3)))),
    ],
)
def test_or_binds_tighter_than_and_and_not_tightest(text: str, expected: Filter):
    assert parse(text, FIELDS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name = "a \\"b\\" \\\\ c"', Comparison("name", "=", 'a "b" \\ c')),
        ("name = 'it\"s'", Comparison("name", "=", 'it"s')),
        ("name:part", Comparison("name", ":", "part")),
        ("name != AND-not", Comparison("name", "!=", "AND-not")),
        ("state = RUNNING", Comparison("state", "=", "RUNNING")),
        ("steps <= -3", Comparison("steps", "<=", -3)),
        ("steps > 1.5e3", Comparison("steps", ">", 1500.0)),
        (
            'create_time >= "2026-01-02T03:04:05Z"',
            Comparison("create_time", ">=", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ),
        ("labels.team = nlp", Comparison("labels", "=", "nlp", "team")),
        ('labels."a.b/c" != "x"', Comparison("labels", "!=", "x", "a.b/c")),
        ("labels:team", Comparison("labels", ":", "", "team")),
    ],
)
def test_each_kind_of_comparison(text: str, expected: Filter):
    assert parse(text, FIELDS) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("owner = me", "no field 'owner'; fields are name, state, steps, create_time, labels"),
        ("state = SLEEPING", "'SLEEPING'; it has RUNNING, FAILED"),
        ("state > RUNNING", "with '>'; it takes =, !="),
        ("steps = many", "'many', which is no number"),
        ("steps = 1e999", "out of range"),
        ("steps = 9223372036854775808", "out of range"),
        ("steps : 3", "with ':'"),
        ("create_time > yesterday", "no RFC 3339 time"),
        ('create_time > "2026-01-01T00:00:00"', "lacks a time zone"),
        ("name.first = x", "'name', which is no map"),
        ("labels = x", "with '='; it takes :"),
        ("labels.team > x", "with '>'"),
        ('labels."a\\"b" = x', "map key"),
        ("steps = 1 steps = 2", "has 'steps' at character 11, not AND, OR or the end"),
        ("steps = 1 AND", "has 'the end' at character 14, not a field"),
        ("steps =", "not a value"),
        ("steps = AND", "not a value"),
        ("(steps = 1", "not )"),
        ("steps = 1)", "has ')'"),
        ("steps 1", "not an operator"),
        ("steps == 1", "not a value"),
        ('name = "open', "cannot be read from character 7 on"),
        ("name = a;b", "cannot be read from character 9 on"),
        ('name = "\x00"', "NUL"),
        ('name = "\ud800"', "surrogate"),
        ("(" * 30 + "steps = 1" + ")" * 30, "nested deeper"),
        ("NOT " * 30 + "steps = 1", "nested deeper"),
        ("steps = 1 OR " * 500 + "steps = 1", "longer than"),
    ],
)
def test_a_faulty_filter_says_what_is_wrong(text: str, said: str):
    with pytest.raises(InvalidArgument) as caught:
        parse(text, FIELDS)

    (violation,) = caught.value.violations
    assert said in violation.description
    assert (violation.field, violation.reason) == ("filter", "FILTER_INVALID")


@given(st.text(max_size=200) | st.text("name=state:steps<>!()\"' ANDORNT.1", max_size=80))
def test_any_text_is_parsed_or_refused(text: str):
    with suppress(InvalidArgument):
        parse(text, FIELDS)


@given(st.text(max_size=50))
def test_a_quoted_string_is_taken_literally(value: str):
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    if "\0" in value:
        return
    assert parse(f'name = "{escaped}"', FIELDS) == Comparison("name", "=", value)
