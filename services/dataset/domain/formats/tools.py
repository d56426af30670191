"""Definitions of tools and calls of them, as OpenAI's and ShareGPT's files spell them.

We keep definitions as OpenAI does, `{"type": "function", "function": {…}}`.
"""

import json
from collections.abc import Sequence

from services.chat.conversation import ToolCall
from services.dataset.domain.flaws import FlawCode, Path
from services.dataset.domain.formats.rows import Flaws, Row, json_text
from services.dataset.domain.strict_json import Json

MAX_TOOLS = 128
MAX_CALLS = 128

_FUNCTION = "function"


def definitions(value: Json, path: Path, flaws: Flaws) -> str:
    """A list of definitions, bare or wrapped, itself or in a string → our JSON text; empty for
    null."""
    if value is None:
        return ""
    if isinstance(value, str):
        if not value:
            return ""
        value = flaws.json(value, path)
    if not isinstance(value, list):
        flaws.add(FlawCode.WRONG_TYPE, "must be a list of tools", path)
        return ""
    if len(value) > MAX_TOOLS:
        flaws.add(FlawCode.OUT_OF_RANGE, f"has {len(value)} tools; {MAX_TOOLS} may be", path)
        return ""
    wrapped = [_wrapped(item, (*path, index), flaws) for index, item in enumerate(value)]
    return json_text(wrapped)


def _wrapped(item: Json, path: Path, flaws: Flaws) -> Json:
    if not flaws.is_object(item, path):
        return None
    function, here = item, path
    if _FUNCTION in item:
        if item.get("type", _FUNCTION) != _FUNCTION:
            flaws.add(FlawCode.OUT_OF_RANGE, "only functions are known", (*path, "type"))
        flaws.reject_unknown(item, ("type", _FUNCTION), path)
        inner, here = item[_FUNCTION], (*path, _FUNCTION)
        if not flaws.is_object(inner, here):
            return None
        function = inner
    flaws.name(function, "name", here)
    return {"type": _FUNCTION, _FUNCTION: function}


def openai_calls(message: Row, path: Path, flaws: Flaws) -> tuple[ToolCall, ...]:
    """The calls under `tool_calls`, each with an id, and with arguments that are JSON in a
    string."""
    calls: list[ToolCall] = []
    items = flaws.objects(message, "tool_calls", MAX_CALLS, path, too_many=FlawCode.OUT_OF_RANGE)
    for index, item in enumerate(items):
        here = (*path, "tool_calls", index)
        if flaws.is_object(item, here):
            calls.append(_openai_call(item, here, flaws))
    return tuple(calls)


def _openai_call(item: Row, path: Path, flaws: Flaws) -> ToolCall:
    flaws.reject_unknown(item, ("id", "type", _FUNCTION), path)
    identity = flaws.name(item, "id", path)
    if item.get("type", _FUNCTION) != _FUNCTION:
        flaws.add(FlawCode.OUT_OF_RANGE, "only functions are known", (*path, "type"))
    function, here = item.get(_FUNCTION), (*path, _FUNCTION)
    if not flaws.is_object(function, here):
        return ToolCall("", "{}")
    flaws.reject_unknown(function, ("name", "arguments"), here)
    name = flaws.name(function, "name", here)
    arguments = flaws.text(function, "arguments", here)
    if arguments:
        _check_arguments(arguments, (*here, "arguments"), flaws)
    return ToolCall(name, arguments, identity)


def _check_arguments(text: str, path: Path, flaws: Flaws) -> None:
    before = len(flaws.found)
    value = flaws.json(text, path)
    if len(flaws.found) == before and not isinstance(value, dict):
        flaws.add(FlawCode.WRONG_TYPE, "must be a JSON object in a string", path)


def sharegpt_calls(text: str, path: Path, flaws: Flaws) -> tuple[ToolCall, ...]:
    """The calls in the text of a function_call turn: an object with name and arguments, or a list
    of such."""
    before = len(flaws.found)
    value = flaws.json(text, path)
    if len(flaws.found) > before:
        return ()
    items = value if isinstance(value, list) else [value]
    if not items:
        flaws.add(FlawCode.EMPTY, "must call a tool", path)
    if len(items) > MAX_CALLS:
        flaws.add(FlawCode.OUT_OF_RANGE, f"has {len(items)} calls; {MAX_CALLS} may be", path)
        return ()
    return tuple(_sharegpt_call(item, path, flaws) for item in items)


def _sharegpt_call(item: Json, path: Path, flaws: Flaws) -> ToolCall:
    if not flaws.is_object(item, path):
        return ToolCall("", "{}")
    flaws.reject_unknown(item, ("name", "arguments"), path)
    arguments = item.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json_text(arguments)
    _check_arguments(arguments, path, flaws)
    return ToolCall(flaws.name(item, "name", path), arguments)


def openai_call_of(call: ToolCall) -> Row:
    function: Row = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": _FUNCTION, _FUNCTION: function}


def sharegpt_call_text(calls: Sequence[ToolCall]) -> str:
    """What a function_call turn says. The ids are not told: calls are answered in their order."""
    told = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in calls]
    return json_text(told[0] if len(told) == 1 else told)


def bare_definitions(tools: str) -> str:
    """Our definitions as ShareGPT's files have them in a string."""
    return json_text([tool[_FUNCTION] for tool in json.loads(tools)])
