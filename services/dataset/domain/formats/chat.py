"""`{"messages": [{"role": …, "content": …}, …]}`, as OpenAI's fine-tuning files."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from services.chat.conversation import Content, Conversation, Message, Role, ToolCall
from services.dataset.domain.flaws import FlawCode, Path
from services.dataset.domain.formats.rows import Flaws, Row, require_conversation
from services.dataset.domain.formats.tools import definitions, openai_call_of, openai_calls
from services.dataset.domain.formats.turns import MAX_MESSAGES, check_turns, learnt_weight
from services.dataset.domain.strict_json import Json

MESSAGES, TOOLS, PARALLEL = "messages", "tools", "parallel_tool_calls"
FIELDS = (MESSAGES, TOOLS, PARALLEL)

_MESSAGE_FIELDS = ("role", "content", "weight", "train", "name", "tool_calls", "tool_call_id")
_LEARNT = ("weight", "train")
_ROLES: dict[str, Role] = {role.value: role for role in Role} | {"developer": Role.SYSTEM}
_PLAIN_ROLES = {role.value: role for role in (Role.SYSTEM, Role.USER, Role.ASSISTANT)}
_NEEDED = ("role", "content")
"""Of any other field null says that it is not there, as tables write it."""
_STAND_IN = Message(Role.USER, "")


def read(row: Row) -> Conversation:
    """Raises BadLine."""
    flaws = Flaws()
    flaws.reject_unknown(row, FIELDS)
    messages = read_messages(row, MESSAGES, flaws)
    tools = definitions(row.get(TOOLS), (TOOLS,), flaws)
    parallel = read_parallel(row, (), flaws)
    if not flaws.found:
        places = role_places((MESSAGES,), len(messages))
        check_turns(messages, places, (MESSAGES,), flaws)
    flaws.check()
    return Conversation(tuple(messages), tools, parallel)


def write(content: Content) -> Row:
    """Of what only other formats tell: a call without an id gets one, and where an input begins is
    left out. Raises CannotHold."""
    conversation = require_conversation(content)
    row: Row = {MESSAGES: write_messages(conversation)}
    if conversation.tools:
        row[TOOLS] = json.loads(conversation.tools)
    if conversation.parallel_tool_calls is not None:
        row[PARALLEL] = conversation.parallel_tool_calls
    return row


def read_messages(row: Row, key: str, flaws: Flaws, path: Path = ()) -> list[Message]:
    items = flaws.objects(row, key, MAX_MESSAGES, path)
    return [
        _plain_message(item) or message(item, (*path, key, index), flaws)
        for index, item in enumerate(items)
    ]


def role_places(path: Path, length: int) -> list[Path]:
    """Where the roles of a list of messages stand."""
    return [(*path, index, "role") for index in range(length)]


def refuse_weights(value: Json, path: Path, flaws: Flaws) -> None:
    """For a list of messages of which the format itself says what is learnt."""
    for index, item in enumerate(value if isinstance(value, list) else []):
        refuse_weight(item, (*path, index), flaws)


def refuse_weight(item: Json, path: Path, flaws: Flaws) -> None:
    for key in _LEARNT:
        if isinstance(item, dict) and key in item:
            text = "the answers alone are learnt here, and fully"
            flaws.add(FlawCode.UNKNOWN_FIELD, text, (*path, key))


def _plain_message(item: Json) -> Message | None:
    """What `message` makes of one that is a role and a text, as most are; faster."""
    if not isinstance(item, dict) or len(item) != 2:
        return None
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or role not in _PLAIN_ROLES:
        return None
    if not isinstance(content, str) or not content:
        return None
    return Message(_PLAIN_ROLES[role], content, role == "assistant")


def message(item: Json, path: Path, flaws: Flaws) -> Message:
    """The message, or a stand-in that is never used because `flaws` has grown."""
    if not flaws.is_object(item, path):
        return _STAND_IN
    before = len(flaws.found)
    item = {key: value for key, value in item.items() if value is not None or key in _NEEDED}
    flaws.reject_unknown(item, _MESSAGE_FIELDS, path)
    role = _role(item, path, flaws)
    calls = _calls(item, role, path, flaws)
    content = _content(item, role, path, flaws)
    weight = learnt_weight(item, role, path, flaws)
    answered = _call_id(item, role, path, flaws)
    name = flaws.optional_text(item, "name", path)
    flaws.check_length(name, (*path, "name"))
    flaws.check_length(answered, (*path, "tool_call_id"))
    if len(flaws.found) > before:
        return _STAND_IN
    return Message(
        role,
        content,
        train=weight > 0,
        weight=weight or 1.0,
        tool_calls=calls,
        tool_call_id=answered,
        name=name,
    )


def _role(item: Row, path: Path, flaws: Flaws) -> Role:
    text = flaws.text(item, "role", path)
    role = _ROLES.get(text)
    if role is not None:
        return role
    if text:
        known = "the role must be system, user, assistant or tool"
        flaws.add(FlawCode.UNKNOWN_ROLE, known, (*path, "role"))
    return Role.USER


def _content(item: Row, role: Role, path: Path, flaws: Flaws) -> str:
    """A string, or a list of parts of text, which are one text. Beside calls there need be none,
    and a tool may answer with an empty one."""
    value = item.get("content")
    calls_tools = item.get("tool_calls") is not None
    if value is None and calls_tools:
        return ""
    if not isinstance(value, list):
        may_be_empty = calls_tools or role is Role.TOOL
        return flaws.text(item, "content", path, may_be_empty=may_be_empty)
    if not value:
        flaws.add(FlawCode.EMPTY, "must not be empty", (*path, "content"))
    parts = [_part(part, (*path, "content", index), flaws) for index, part in enumerate(value)]
    return "".join(parts)


def _part(part: Json, path: Path, flaws: Flaws) -> str:
    if not flaws.is_object(part, path):
        return ""
    if part.get("type") != "text":
        flaws.add(FlawCode.OUT_OF_RANGE, "only parts of type text are known", (*path, "type"))
        return ""
    flaws.reject_unknown(part, ("type", "text"), path)
    return flaws.text(part, "text", path)


def _calls(item: Row, role: Role, path: Path, flaws: Flaws) -> tuple[ToolCall, ...]:
    if item.get("tool_calls") is None:
        return ()
    if role is not Role.ASSISTANT:
        here = (*path, "tool_calls")
        flaws.add(FlawCode.UNKNOWN_FIELD, "only an assistant's message calls tools", here)
        return ()
    return openai_calls(item, path, flaws)


def _call_id(item: Row, role: Role, path: Path, flaws: Flaws) -> str:
    if role is Role.TOOL:
        return flaws.text(item, "tool_call_id", path)
    if "tool_call_id" in item:
        here = (*path, "tool_call_id")
        flaws.add(FlawCode.UNKNOWN_FIELD, "only a tool's message answers a call", here)
    return ""


def read_parallel(row: Row, path: Path, flaws: Flaws) -> bool | None:
    value = row.get(PARALLEL)
    if value is None or isinstance(value, bool):
        return value
    flaws.add(FlawCode.WRONG_TYPE, "must be true or false", (*path, PARALLEL))
    return None


def write_messages(messages: Sequence[Message], *, with_weights: bool = True) -> list[Json]:
    """What `read_messages` reads; without weights what `refuse_weights` lets pass."""
    return [_row_of(message, with_weights=with_weights) for message in with_ids(messages)]


def _row_of(message: Message, *, with_weights: bool) -> Row:
    row: Row = {"role": message.role.value}
    if message.content or not message.tool_calls:
        row["content"] = message.content
    if message.name:
        row["name"] = message.name
    if with_weights and message.role is Role.ASSISTANT and message.loss_weight != 1.0:
        row["weight"] = message.loss_weight or 0
    if message.tool_calls:
        row["tool_calls"] = [openai_call_of(call) for call in message.tool_calls]
    if message.role is Role.TOOL:
        row["tool_call_id"] = message.tool_call_id
    return row


def with_ids(messages: Sequence[Message]) -> list[Message]:
    """The same messages, where calls without ids, which are answered in their order, have some."""
    if not any(message.tool_calls for message in messages):
        return list(messages)
    taken = {call.id for message in messages for call in message.tool_calls}
    free = (name for name in map("call_{}".format, count()) if name not in taken)
    open_ids: list[str] = []
    told: list[Message] = []
    for message in messages:
        if message.tool_calls:
            calls = tuple(replace(c, id=c.id or next(free)) for c in message.tool_calls)
            open_ids = [call.id for call in calls]
            message = replace(message, tool_calls=calls)
        elif message.role is Role.TOOL and not message.tool_call_id and open_ids:
            message = replace(message, tool_call_id=open_ids.pop(0))
        told.append(message)
    return told
