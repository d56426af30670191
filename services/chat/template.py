"""Renders Hugging Face chat templates in Jinja's sandbox and finds the `{% generation %}` spans.

Output is the same text that `transformers` renders (same whitespace rules, same globals), but
a span is found where its text ends up, also when the tag stands in a macro or a loop.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import Environment, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from services.chat.conversation import Conversation, Message, ToolCall
from services.chat.errors import TemplateUnsupported

Span = tuple[int, int]

# Code points that Unicode reserves for a program's own use: no text may assign them a meaning.
_NONCHARACTERS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))
_OPEN = "_generation_open"
_CLOSE = "_generation_close"

# What a template's own code can raise: Jinja lets Python's errors through.
_TEMPLATE_FAULTS = (
    TemplateError,
    ArithmeticError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Rendering:
    """A rendered conversation; `spans` are the character ranges inside `{% generation %}`."""

    text: str
    spans: tuple[Span, ...]


class ChatTemplate:
    """A compiled chat template.

    `special_tokens` are the variables it may name (`bos_token`, `eos_token`, …); `now` is what
    its `strftime_now` tells. Raises TemplateUnsupported if the source does not compile.
    """

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], now: Callable[[], datetime]
    ) -> None:
        try:
            self._template = _environment(now).from_string(source)
        except TemplateError as error:
            raise TemplateUnsupported(f"the chat template does not compile: {error}") from error
        self._special_tokens = dict(special_tokens)

    def render(
        self, conversation: Conversation, *, add_generation_prompt: bool = False
    ) -> Rendering:
        """Raises TemplateUnsupported if the template refuses the conversation or misbehaves."""
        messages = [_variables(message) for message in conversation]
        opening, closing = _free_marks(_texts(conversation))
        variables = {**self._special_tokens, _OPEN: opening, _CLOSE: closing}
        try:
            marked = self._template.render(
                messages=messages,
                tools=_json(conversation.tools) if conversation.offers_tools else None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        except _TEMPLATE_FAULTS as error:
            raise TemplateUnsupported(f"the chat template fails: {error}") from error
        return _without_marks(marked, opening, closing)


def _variables(message: Message) -> dict[str, Any]:
    """The message as templates know it."""
    variables: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.name:
        variables["name"] = message.name
    if message.tool_calls:
        variables["tool_calls"] = [_call_variables(call) for call in message.tool_calls]
    if message.tool_call_id:
        variables["tool_call_id"] = message.tool_call_id
    return variables


def _call_variables(call: ToolCall) -> dict[str, Any]:
    """Templates write the arguments by `tojson`: as a text they would be quoted twice."""
    function = {"name": call.name, "arguments": _json(call.arguments)}
    identity = {"id": call.id} if call.id else {}
    return {**identity, "type": "function", "function": function}


def _json(text: str) -> Any:
    """Raises TemplateUnsupported."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise TemplateUnsupported(f"tools and arguments must be JSON: {error}") from error


def _texts(conversation: Conversation) -> list[str]:
    """All that a template may write out."""
    texts = [conversation.tools]
    for message in conversation:
        texts += [message.content, message.name, message.tool_call_id]
        texts += [text for call in message.tool_calls for text in (call.name, call.arguments)]
    return texts


class _GenerationTag(Extension):
    """Surrounds the body of `{% generation %}` with the two marks that the context carries."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, context: Context, caller: Macro) -> str:
        return f"{context.resolve(_OPEN)}{caller()}{context.resolve(_CLOSE)}"


class _GuardedNamespace(Namespace):
    """Jinja's `namespace()`, which on its own accepts names that reach into Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` must stay free as an attribute name
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _refuse_private(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold the private name {name!r}")


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    names = cast("dict[str, Any]", environment.globals)
    names["raise_exception"] = _raise_exception
    names["strftime_now"] = _clock(now)
    names["namespace"] = _GuardedNamespace
    names["dict"] = _new_dict
    return environment


def _clock(now: Callable[[], datetime]) -> Callable[[str], str]:
    def strftime_now(form: str) -> str:
        return now().strftime(form)

    return strftime_now


def _new_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """`dict(…)` without the type itself, whose attributes would lead out of the sandbox."""
    return dict(*args, **kwargs)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own `tojson` escapes HTML, which would change what the model reads."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _free_marks(contents: Sequence[str]) -> tuple[str, str]:
    free = [mark for mark in _NONCHARACTERS if not any(mark in text for text in contents)]
    if len(free) < 2:
        raise TemplateUnsupported("the conversation uses every Unicode noncharacter there is")
    return free[0], free[1]


def _without_marks(marked: str, opening: str, closing: str) -> Rendering:
    """Strips the marks and reports what lay between them, outermost pairs only."""
    pieces: list[str] = []
    spans: list[Span] = []
    length = depth = start = position = 0
    for found in re.finditer(f"[{opening}{closing}]", marked):
        pieces.append(marked[position : found.start()])
        length += found.start() - position
        position = found.end()
        if found.group() == opening:
            start = length if depth == 0 else start
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                spans.append((start, length))
    pieces.append(marked[position:])
    return Rendering("".join(pieces), tuple(spans))
