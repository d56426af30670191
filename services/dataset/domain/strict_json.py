"""One line of JSON, read strictly: nothing that JSON parsers like to forgive is forgiven.

Two parsers share the work. orjson is fast, and refuses all that is not strict JSON but two things:
of equal keys it keeps the last, and it nests deeper than we want. `_is_whole` finds out about both.
Whatever is in doubt goes to the standard library's parser, which is slower and names each flaw and
its place.
"""

import json
import math
import re
from collections.abc import Iterator
from itertools import islice
from typing import cast

import orjson

from services.dataset.domain.flaws import BadLine, Flaw, FlawCode, Path

_CONTAINERS = (dict, list)
Json = str | int | float | bool | list["Json"] | dict[str, "Json"] | None
_Container = list[Json] | dict[str, Json]

MAX_DEPTH = 32
"""How many objects and arrays may lie in each other, the line's own object counted."""

MAX_FLAWS_PER_LINE = 100
"""How many flaws of one line are counted; it is refused with the first."""

_EXACT_INTEGER_DIGITS = 18
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(text: bytes) -> Json:
    """The value that a line holds. Raises BadLine with all flaws that can be told at once."""
    try:
        value = cast(Json, orjson.loads(text))
    except orjson.JSONDecodeError:
        return _parse_exactly(text)
    return value if _is_whole(value, text) else _parse_exactly(text)


def _is_whole(value: Json, text: bytes) -> bool:
    """Whether orjson has dropped nothing of `text` and the value is not too deep.

    Each string of the text stands between two quotes, and an equal key that was dropped is a string
    that the value lacks. In valid JSON a quote is escaped exactly if an odd number of backslashes
    stands before it, which is to say: one, once the pairs of backslashes are gone.
    """
    quotes = text.count(b'"')
    if b"\\" in text:
        quotes -= text.replace(b"\\\\", b"").count(b'\\"')
    return quotes == 2 * _count_strings(value)


def _count_strings(value: Json) -> int:
    """How many strings `value` holds, keys included; -1 if it is deeper than MAX_DEPTH."""
    count = 0
    level: list[_Container] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        deeper: list[_Container] = []
        for container in level:
            if isinstance(container, dict):
                count += len(container)
                container = container.values()
            for item in container:
                if isinstance(item, str):
                    count += 1
                elif isinstance(item, _CONTAINERS):
                    deeper.append(item)
        if not deeper:
            return count
        level = deeper
    return -1


class _Members(list[tuple[str, object]]):
    """The members of an object, equal keys included."""


class _NotFinite(str):
    """NaN, an infinity, or a number that no double can hold, as it was written."""

    __slots__ = ()


def _parse_exactly(text: bytes) -> Json:
    decoded = _decode(text)
    try:
        value: object = json.loads(
            decoded,
            object_pairs_hook=_Members,
            parse_constant=_NotFinite,
            parse_float=_finite,
            parse_int=_integer,
        )
    except json.JSONDecodeError as error:
        raise BadLine(_not_json(error)) from error
    except RecursionError as error:
        raise BadLine(_too_deep(())) from error
    flaws = tuple(islice(_flaws(value, ()), MAX_FLAWS_PER_LINE))
    if flaws:
        raise BadLine(*flaws)
    return _plain(value)


def _decode(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        message = f"byte {error.start + 1} is not valid UTF-8; save the file as UTF-8"
        raise BadLine(Flaw(FlawCode.NOT_UTF8, message)) from error


def _finite(text: str) -> float | _NotFinite:
    number = float(text)
    return number if math.isfinite(number) else _NotFinite(text)


def _integer(text: str) -> float | _NotFinite:
    return int(text) if len(text) <= _EXACT_INTEGER_DIGITS else _finite(text)


def _flaws(value: object, path: Path) -> Iterator[Flaw]:
    """What is wrong with a value and with all in it, in the order of the text."""
    if isinstance(value, _NotFinite):
        yield Flaw(FlawCode.NOT_A_FINITE_NUMBER, "must be a finite number", path)
    elif isinstance(value, str) and _SURROGATE.search(value):
        yield Flaw(FlawCode.LONE_SURROGATE, r"holds half of a \u surrogate pair", path)
    elif isinstance(value, list) and len(path) >= MAX_DEPTH:
        yield _too_deep(path)
    elif isinstance(value, _Members):
        yield from _member_flaws(value, path)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            yield from _flaws(item, (*path, index))


def _member_flaws(members: _Members, path: Path) -> Iterator[Flaw]:
    seen: set[str] = set()
    for key, value in members:
        if _SURROGATE.search(key):
            yield Flaw(FlawCode.LONE_SURROGATE, r"a key holds half of a \u surrogate pair", path)
            continue
        if key in seen:
            yield Flaw(FlawCode.DUPLICATE_KEY, "the key stands here twice", (*path, key))
        seen.add(key)
        yield from _flaws(value, (*path, key))


def _plain(value: object) -> Json:
    """The value without the marks of the exact parser. It has no flaws, so no depth either."""
    if isinstance(value, _Members):
        return {key: _plain(member) for key, member in value}
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[object]", value)]
    return cast(Json, value)


def _not_json(error: json.JSONDecodeError) -> Flaw:
    return Flaw(FlawCode.NOT_JSON, f"not JSON at character {error.pos + 1}: {error.msg}")


def _too_deep(path: Path) -> Flaw:
    return Flaw(FlawCode.TOO_DEEP, f"nests more than {MAX_DEPTH} levels deep", path)
