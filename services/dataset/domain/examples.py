"""A line's JSON value → the labeled example that it holds, or everything that is wrong with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from services.chat.conversation import (
    LEAST_WEIGHT,
    MOST_WEIGHT,
    Content,
    Conversation,
    Message,
    Role,
)
from services.dataset.domain.flaws import BadLine, Flaw, FlawCode, Path
from services.dataset.domain.resources import SourceFormat
from services.dataset.domain.strict_json import Json

MAX_MESSAGES = 256
"""How many messages a conversation may have."""

_MESSAGES = "messages"
_ROW_KEYS = frozenset({_MESSAGES})
_MESSAGE_KEYS = frozenset({"role", "content", "weight"})
_ROLES: dict[str, Role] = {role.value: role for role in Role}

ReadExample = Callable[[dict[str, Json]], Content]
"""Reads one line's object. Raises BadLine."""


@dataclass(frozen=True)
class TextFields:
    """Where a prompt/completion line has its texts, and a plain-text line its one.

    A caller who names the fields of a format (`named`) uploads a table as it is: other columns are
    dropped. Without, a further field is a mistake.
    """

    prompt: str = "prompt"
    completion: str = "completion"
    text: str = "text"
    named: SourceFormat | None = None


def reader(source: SourceFormat, fields: TextFields) -> ReadExample:
    """The reader for lines of this format."""
    match source:
        case SourceFormat.CHAT:
            return read_chat
        case SourceFormat.PROMPT_COMPLETION:
            return lambda row: read_prompt_completion(row, fields)
        case SourceFormat.TEXT:
            return lambda row: read_text(row, fields)
        case _:
            assert_never(source)


def format_of(row: dict[str, Json], fields: TextFields) -> SourceFormat:
    """The format that an upload has whose first readable line is `row`."""
    if _MESSAGES in row:
        return SourceFormat.CHAT
    if fields.named:
        return fields.named
    if fields.prompt in row or fields.completion in row:
        return SourceFormat.PROMPT_COMPLETION
    return SourceFormat.TEXT if fields.text in row else SourceFormat.CHAT


def require_object(value: Json) -> dict[str, Json]:
    """The value itself if it is an object; raises BadLine."""
    if not isinstance(value, dict):
        raise BadLine(Flaw(FlawCode.NOT_AN_OBJECT, "the line must be a JSON object"))
    return value


def read_prompt_completion(row: dict[str, Json], fields: TextFields) -> Conversation:
    """A user's turn and the assistant's answer, which is learnt. Raises BadLine."""
    flaws: list[Flaw] = []
    if fields.named is not SourceFormat.PROMPT_COMPLETION:
        _reject_unknown(row, frozenset({fields.prompt, fields.completion}), (), flaws)
    prompt = _text(row, fields.prompt, (), flaws)
    completion = _text(row, fields.completion, (), flaws)
    if flaws:
        raise BadLine(*flaws)
    return (Message(Role.USER, prompt), Message(Role.ASSISTANT, completion, train=True))


def read_text(row: dict[str, Json], fields: TextFields) -> str:
    """A plain text, every token of which is learnt. Raises BadLine."""
    flaws: list[Flaw] = []
    if fields.named is not SourceFormat.TEXT:
        _reject_unknown(row, frozenset({fields.text}), (), flaws)
    text = _text(row, fields.text, (), flaws)
    if flaws:
        raise BadLine(*flaws)
    return text


def read_chat(row: dict[str, Json]) -> Conversation:
    """The conversation under `messages`. Raises BadLine."""
    flaws: list[Flaw] = []
    if len(row) != 1 or _MESSAGES not in row:
        _reject_unknown(row, _ROW_KEYS, (), flaws)
    messages = tuple(_message(item, index, flaws) for index, item in enumerate(_items(row, flaws)))
    if not flaws:
        _check_turns(messages, flaws)
    if flaws:
        raise BadLine(*flaws)
    return messages


def _items(row: dict[str, Json], flaws: list[Flaw]) -> list[Json]:
    """The messages to look at; none if their list is wrong as a whole."""
    path = (_MESSAGES,)
    items = row.get(_MESSAGES)
    if _MESSAGES not in row:
        flaws.append(Flaw(FlawCode.MISSING_FIELD, "the line lacks messages", path))
    elif not isinstance(items, list):
        flaws.append(Flaw(FlawCode.WRONG_TYPE, "must be a list of messages", path))
    elif not items:
        flaws.append(Flaw(FlawCode.EMPTY, "must hold at least one message", path))
    elif len(items) > MAX_MESSAGES:
        message = f"has {len(items)} messages; {MAX_MESSAGES} are allowed"
        flaws.append(Flaw(FlawCode.TOO_MANY_MESSAGES, message, path))
    else:
        return items
    return []


def _message(item: Json, index: int, flaws: list[Flaw]) -> Message:
    """The message, or a stand-in that is never used because `flaws` has grown."""
    path = (_MESSAGES, index)
    if not isinstance(item, dict):
        flaws.append(Flaw(FlawCode.NOT_AN_OBJECT, "a message must be an object", path))
        return _STAND_IN
    if not item.keys() <= _MESSAGE_KEYS:
        _reject_unknown(item, _MESSAGE_KEYS, path, flaws)
    role = _role(item, path, flaws)
    content = _text(item, "content", path, flaws)
    if "weight" not in item:
        return Message(role, content, role is Role.ASSISTANT)
    weight = _weight(item["weight"], role, path, flaws)
    return Message(role, content, train=True, weight=weight) if weight else Message(role, content)


def _role(item: dict[str, Json], path: Path, flaws: list[Flaw]) -> Role:
    text = _text(item, "role", path, flaws)
    role = _ROLES.get(text)
    if role is not None:
        return role
    if text:
        message = "the role must be system, user or assistant"
        flaws.append(Flaw(FlawCode.UNKNOWN_ROLE, message, (*path, "role")))
    return Role.USER


def _weight(value: Json, role: Role, path: Path, flaws: list[Flaw]) -> float:
    """How much the turn counts, 0 if it is not learnt. OpenAI's files know 0 and 1 alone."""
    path = (*path, "weight")
    if role is not Role.ASSISTANT:
        message = "only an assistant's message has a weight"
        flaws.append(Flaw(FlawCode.UNKNOWN_FIELD, message, path))
    elif isinstance(value, bool) or not isinstance(value, int | float):
        flaws.append(Flaw(FlawCode.WRONG_TYPE, "must be a number", path))
    elif value != 0 and not LEAST_WEIGHT <= value <= MOST_WEIGHT:
        message = f"must be 0, or {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}"
        flaws.append(Flaw(FlawCode.OUT_OF_RANGE, message, path))
    else:
        return float(value)
    return 0.0


def _text(row: dict[str, Json], key: str, path: Path, flaws: list[Flaw]) -> str:
    """The non-empty string under `key`, or an empty one and a flaw more."""
    value = row.get(key)
    if isinstance(value, str) and value:
        return value
    if key not in row:
        flaws.append(Flaw(FlawCode.MISSING_FIELD, "is missing", (*path, key)))
    elif not isinstance(value, str):
        flaws.append(Flaw(FlawCode.WRONG_TYPE, "must be a string", (*path, key)))
    else:
        flaws.append(Flaw(FlawCode.EMPTY, "must not be empty", (*path, key)))
    return ""


def _reject_unknown(
    row: dict[str, Json], known: frozenset[str], path: Path, flaws: list[Flaw]
) -> None:
    for key in row:
        if key not in known:
            message = f"only {', '.join(sorted(known))} may stand here"
            flaws.append(Flaw(FlawCode.UNKNOWN_FIELD, message[:80], (*path, key)))


def _check_turns(messages: Conversation, flaws: list[Flaw]) -> None:
    """The rules that hold between the turns of a conversation that has no other flaw."""
    before: Role | None = None
    for index, message in enumerate(messages):
        if rule := _broken_rule(before, message.role):
            flaws.append(Flaw(FlawCode.ROLE_ORDER, rule, (_MESSAGES, index, "role")))
        before = message.role
    if not any(message.train for message in messages):
        text = "no assistant's message of a weight above 0: nothing to learn"
        flaws.append(Flaw(FlawCode.NO_ASSISTANT_TURN, text, (_MESSAGES,)))
    elif before is not Role.ASSISTANT:
        path = (_MESSAGES, len(messages) - 1, "role")
        flaws.append(Flaw(FlawCode.ROLE_ORDER, "the last message must be the assistant's", path))


def _broken_rule(before: Role | None, role: Role) -> str | None:
    if role is Role.SYSTEM and before is not None:
        return "a system message may only be the first"
    if role is Role.ASSISTANT and before is not Role.USER:
        return "an assistant's message must follow a user's"
    return None


_STAND_IN = Message(Role.USER, "")
