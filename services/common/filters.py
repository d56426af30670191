"""The filter language of List methods: AIP-160, restricted to declared fields.

    state = RUNNING AND (labels.team = "nlp" OR NOT create_time < "2026-01-01T00:00:00Z")

As AIP-160 has it, OR binds tighter than AND: `a AND b OR c` is `a AND (b OR c)`.
Operators: = != < <= > >= and `:` (has: text contains it, ignoring case; a map has the key).
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, cast

from services.common.faults import InvalidArgument

Operator = Literal["=", "!=", "<", "<=", ">", ">=", ":"]
Value = str | int | float | datetime

_MAX_CHARACTERS = 2048
_MAX_DEPTH = 20
_INT64 = 2**63
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<operator><=|>=|!=|[=<>:])
      | (?P<mark>[().])
      | (?P<word>[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?![A-Za-z0-9_-])|[A-Za-z0-9_*-]+)
    )""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_KEY = re.compile(r"[A-Za-z0-9_./-]{1,63}")
_ORDERED: Final = ("=", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True)
class FieldKind:
    """What a field may be compared with, and how."""

    name: Literal["text", "number", "time", "enum", "map"]
    operators: tuple[str, ...]
    values: tuple[str, ...] = ()


TEXT = FieldKind("text", (*_ORDERED, ":"))
NUMBER = FieldKind("number", _ORDERED)
TIME = FieldKind("time", _ORDERED)
MAP = FieldKind("map", ("=", "!=", ":"))


def ENUM(values: Iterable[str]) -> FieldKind:
    """A field that has one of `values`."""
    return FieldKind("enum", ("=", "!="), tuple(values))


@dataclass(frozen=True)
class Comparison:
    """`field op value`; of a map, the entry `key`, and `field:key` has an empty value."""

    field: str
    op: Operator
    value: Value
    key: str | None = None


@dataclass(frozen=True)
class Not:
    operand: "Filter"


@dataclass(frozen=True)
class And:
    operands: tuple["Filter", ...]


@dataclass(frozen=True)
class Or:
    operands: tuple["Filter", ...]


Filter = Comparison | Not | And | Or


def parse(text: str, fields: Mapping[str, FieldKind]) -> Filter | None:
    """The filter, or None if the text is blank: everything matches.

    Raises InvalidArgument FILTER_INVALID, which says where and what is allowed.
    """
    if len(text) > _MAX_CHARACTERS:
        raise _invalid(f"is longer than {_MAX_CHARACTERS} characters")
    tokens = _tokens(text)
    if tokens[0].kind == "end":
        return None
    return _Parser(tokens, fields).whole()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise _invalid(f"cannot be read from character {position + 1} on")
        kind = str(match.lastgroup)
        tokens.append(_Token(kind, match[kind], match.start(kind)))
        position = match.end()
    return [*tokens, _Token("end", "the end", end)]


class _Parser:
    """Recursive descent, one method per rule of the grammar."""

    def __init__(self, tokens: list[_Token], fields: Mapping[str, FieldKind]) -> None:
        self._tokens = tokens
        self._fields = fields
        self._next = 0
        self._depth = 0

    def whole(self) -> Filter:
        filter = self._conjunction()
        if self._peek().kind != "end":
            raise self._unexpected("AND, OR or the end")
        return filter

    def _conjunction(self) -> Filter:
        operands = [self._disjunction()]
        while self._took("word", "AND"):
            operands.append(self._disjunction())
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def _disjunction(self) -> Filter:
        operands = [self._term()]
        while self._took("word", "OR"):
            operands.append(self._term())
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def _term(self) -> Filter:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _invalid(f"is nested deeper than {_MAX_DEPTH} levels")
        try:
            if self._took("word", "NOT"):
                return Not(self._term())
            if self._took("mark", "("):
                return self._parenthesized()
            return self._comparison()
        finally:
            self._depth -= 1

    def _parenthesized(self) -> Filter:
        inner = self._conjunction()
        if not self._took("mark", ")"):
            raise self._unexpected(")")
        return inner

    def _comparison(self) -> Filter:
        token = self._take("word", "a field")
        kind = self._fields.get(token.text)
        if kind is None:
            raise _invalid(f"has no field {token.text!r}; fields are {_listed(self._fields)}")
        key = self._key(token.text, kind)
        op = self._operator(token.text, kind, key)
        if kind.name == "map" and op == ":":
            return Comparison(token.text, ":", "", _checked_key(self._operand()))
        return Comparison(token.text, op, _value(self._operand(), token.text, kind), key)

    def _key(self, field: str, kind: FieldKind) -> str | None:
        if not self._took("mark", "."):
            return None
        if kind.name != "map":
            raise _invalid(f"asks for an entry of {field!r}, which is no map")
        return _checked_key(self._operand())

    def _operator(self, field: str, kind: FieldKind, key: str | None) -> Operator:
        token = self._take("operator", "an operator")
        allowed = kind.operators
        if kind.name == "map":
            allowed = (":",) if key is None else ("=", "!=")
        if token.text not in allowed:
            raise _invalid(f"compares {field!r} with {token.text!r}; it takes {_listed(allowed)}")
        return cast(Operator, token.text)

    def _operand(self) -> _Token:
        token = self._peek()
        if token.kind not in ("word", "quoted") or token.text in ("AND", "OR", "NOT"):
            raise self._unexpected("a value")
        self._next += 1
        return token

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _took(self, kind: str, text: str) -> bool:
        token = self._peek()
        found = token.kind == kind and token.text == text
        self._next += found
        return found

    def _take(self, kind: str, wanted: str) -> _Token:
        token = self._peek()
        if token.kind != kind:
            raise self._unexpected(wanted)
        self._next += 1
        return token

    def _unexpected(self, wanted: str) -> InvalidArgument:
        token = self._peek()
        return _invalid(f"has {token.text!r} at character {token.position + 1}, not {wanted}")


def _value(token: _Token, field: str, kind: FieldKind) -> Value:
    text = _text_of(token)
    match kind.name:
        case "number":
            return _number(text, field)
        case "time":
            return _time(text, field)
        case "enum" if text not in kind.values:
            raise _invalid(f"gives {field!r} the value {text!r}; it has {_listed(kind.values)}")
        case _:
            return text


def _text_of(token: _Token) -> str:
    text = token.text
    if token.kind == "quoted":
        text = re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise _invalid("holds a NUL or half a surrogate pair")
    return text


def _number(text: str, field: str) -> int | float:
    if _NUMBER.fullmatch(text) is None:
        raise _invalid(f"compares {field!r} with {text!r}, which is no number")
    value = int(text) if text.lstrip("+-").isdigit() else float(text)
    if not math.isfinite(value) or (isinstance(value, int) and not -_INT64 <= value < _INT64):
        raise _invalid(f"compares {field!r} with {text}, which is out of range")
    return value


def _time(text: str, field: str) -> datetime:
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise _invalid(f"compares {field!r} with {text!r}, which is no RFC 3339 time") from error
    if value.tzinfo is None:
        raise _invalid(f"compares {field!r} with {text!r}, which lacks a time zone such as Z")
    return value


def _checked_key(token: _Token) -> str:
    key = _text_of(token)
    if _KEY.fullmatch(key) is None:
        raise _invalid(f"asks for the map key {key!r}; keys match {_KEY.pattern}")
    return key


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def _invalid(description: str) -> InvalidArgument:
    return InvalidArgument.of("filter", description, "FILTER_INVALID")
