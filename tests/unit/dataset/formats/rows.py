"""Rows, and the flaws that are found in them."""

from typing import Any

import pytest

from services.chat.conversation import Content
from services.dataset.domain.flaws import BadLine
from services.dataset.domain.formats.catalogue import FORMATS, Shape
from services.dataset.domain.resources import SourceFormat

Found = list[tuple[str, str]]
"""The code and the place of each flaw."""

LETTERS = "  \u0000\ufeff\r\n\U0001f600 "
WEATHER = {"name": "weather", "parameters": {"type": "object"}}


def say(role: Any = "user", content: Any = "text", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def answered(*before: Any) -> dict[str, Any]:
    return {"messages": [*before, say("user"), say("assistant")]}


def call(id: Any = "c1", name: Any = "weather", arguments: Any = '{"city": "Bonn"}') -> Any:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls), **more}


def told(content: Any = "12 °C", id: Any = "c1") -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": id}


def flaws_of(format: SourceFormat, row: Any, **columns: str) -> Found:
    with pytest.raises(BadLine) as caught:
        Shape(format, columns).reader()(row)
    assert all(0 < len(flaw.message) <= 80 for flaw in caught.value.flaws)
    return [(str(flaw.code), flaw.pointer) for flaw in caught.value.flaws]


def written(format: SourceFormat, content: Content) -> dict[str, Any]:
    return FORMATS[format].write(content)
