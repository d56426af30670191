"""JSON-level flaws: each code with its exact place."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataset.domain.flaws import BadLine
from services.dataset.domain.strict_json import MAX_DEPTH, parse


def nested(levels: int, core: str = "1") -> bytes:
    return ('{"a":' * levels + core + "}" * levels).encode()


FLAWS: list[tuple[bytes, list[tuple[str, str]]]] = [
    (b'{"a": "\xff"}', [("NOT_UTF8", "")]),
    (b'{"a": "\xed\xa0\x80"}', [("NOT_UTF8", "")]),  # a surrogate as CESU-8 has it
    (b'{"a": "\xc0\xaf"}', [("NOT_UTF8", "")]),  # an overlong slash
    (b"{", [("NOT_JSON", "")]),
    (b"{'a': 1}", [("NOT_JSON", "")]),
    (b'{"a": 1,}', [("NOT_JSON", "")]),
    (b'{"a": 01}', [("NOT_JSON", "")]),
    (b'{"a": 1} {"b": 2}', [("NOT_JSON", "")]),
    (b'{"a": "\x01"}', [("NOT_JSON", "")]),
    (b'{"a": "\\x"}', [("NOT_JSON", "")]),
    (b'\xef\xbb\xbf{"a": 1}', [("NOT_JSON", "")]),
    (b"{}\xc2\xa0", [("NOT_JSON", "")]),
    (b'{"a": 1, "a": 1}', [("DUPLICATE_KEY", "/a")]),
    (b'{"a": 1, "\\u0061": 2}', [("DUPLICATE_KEY", "/a")]),
    (b'{"a": {"b": "\\"", "b": "\\\\"}}', [("DUPLICATE_KEY", "/a/b")]),
    (b'[{}, {"": 0, "": 0}]', [("DUPLICATE_KEY", "/1/")]),
    (b'{"a/b": 1, "a/b": 2, "m~n": 3, "m~n": 4}', [
        ("DUPLICATE_KEY", "/a~1b"),
        ("DUPLICATE_KEY", "/m~0n"),
    ]),
    (b'{"a": NaN, "b": [1, -Infinity, Infinity]}', [
        ("NOT_A_FINITE_NUMBER", "/a"),
        ("NOT_A_FINITE_NUMBER", "/b/1"),
        ("NOT_A_FINITE_NUMBER", "/b/2"),
    ]),
    (b'{"a": 1e999}', [("NOT_A_FINITE_NUMBER", "/a")]),
    (b'{"a": ' + b"9" * 5000 + b"}", [("NOT_A_FINITE_NUMBER", "/a")]),
    (b'{"a": ["\\ud800"]}', [("LONE_SURROGATE", "/a/0")]),
    (b'{"a": "x\\udc00y"}', [("LONE_SURROGATE", "/a")]),
    (b'{"a": {"\\ud83d": 1}}', [("LONE_SURROGATE", "/a")]),
    (nested(MAX_DEPTH + 1), [("TOO_DEEP", "/a" * MAX_DEPTH)]),
    (nested(MAX_DEPTH, "[]"), [("TOO_DEEP", "/a" * MAX_DEPTH)]),
    (b"[" * 500_000, [("TOO_DEEP", "")]),
    (nested(900), [("TOO_DEEP", "/a" * MAX_DEPTH)]),
    (b'{"a": NaN, "a": "\\ud800"}', [
        ("NOT_A_FINITE_NUMBER", "/a"),
        ("DUPLICATE_KEY", "/a"),
        ("LONE_SURROGATE", "/a"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "flaws"), FLAWS)
def test_each_flaw_is_named_with_its_place(line: bytes, flaws: list[tuple[str, str]]):
    with pytest.raises(BadLine) as caught:
        parse(line)

    assert [(flaw.code, flaw.pointer) for flaw in caught.value.flaws] == flaws
    assert all(0 < len(flaw.message) <= 80 for flaw in caught.value.flaws)


def test_a_line_full_of_flaws_is_not_counted_to_the_end():
    with pytest.raises(BadLine) as caught:
        parse(b"[" + b"NaN," * 100_000 + b"0]")

    assert len(caught.value.flaws) == 100


def test_a_pointer_too_long_for_an_answer_names_a_value_around_the_place():
    with pytest.raises(BadLine) as caught:
        parse(json.dumps({"a": {"k" * 100: [float("nan")]}}).encode())

    assert [flaw.pointer for flaw in caught.value.flaws] == ["/a"]


GOOD = [
    b' {"a" : "b"} ',
    b'{"a": "\\ud83d\\ude00"}',
    b'{"a": "\\\\", "b": "\\\\\\""}',
    b'{"a": "\\"a\\": 1, \\"a\\": 2"}',
    b'{"a": {"x": 1}, "b": {"x": 1}}',
    nested(MAX_DEPTH),
    nested(MAX_DEPTH - 1, "[]"),
    b'{"a": 1e-999}',
    b'{"a": "\\u0000"}',
]


@pytest.mark.parametrize("line", GOOD)
def test_strict_json_is_read(line: bytes):
    assert parse(line) == json.loads(line)


def test_an_integer_beyond_64_bits_is_a_number_like_any_other():
    assert parse(b"123456789012345678901234567890") == pytest.approx(1.2345678901234568e29)


def keys_occur_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def no_constant(text: str) -> None:
    raise AssertionError(text)


def accepts(check: Callable[[], object]) -> bool:
    try:
        check()
    except (AssertionError, ValueError, BadLine):
        return False
    return True


class Members(tuple[Any, ...]):
    """An object that may have equal keys."""

    __slots__ = ()


texts = st.text("ab\\\"'{}:,\ud800é", max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(st.text('ab\\"', max_size=2), inner), max_size=3).map(Members)
    ),
    max_leaves=8,
)


def dumped(value: Any) -> str:
    if isinstance(value, Members):
        return "{" + ",".join(f"{json.dumps(key)}: {dumped(item)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumped, value)) + "]"
    return json.dumps(value)


@settings(max_examples=500)
@given(json_values)
def test_whatever_is_accepted_is_what_a_strict_reference_accepts(value: Any):
    """The fast path hides no equal key, no number that is none and no lone surrogate."""
    line = dumped(value).encode()

    def reference() -> Any:
        found = json.loads(line, object_pairs_hook=keys_occur_once, parse_constant=no_constant)
        json.dumps(found, ensure_ascii=False).encode()
        return found

    assert accepts(lambda: parse(line)) == accepts(reference)
    if accepts(reference):
        assert parse(line) == reference()
