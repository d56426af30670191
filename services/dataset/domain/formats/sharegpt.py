"""ShareGPT's `{"conversations": [{"from": "human", "value": …}, …]}`, with tools.

A `function_call` turn holds the call as JSON, the `observation` that follows what the tool said.
Calls have no ids: they are answered in their order.
"""

from services.chat.conversation import Content, Conversation, Message, Role
from services.dataset.domain.flaws import FlawCode, Path
from services.dataset.domain.formats.rows import CannotHold, Flaws, Row, require_conversation
from services.dataset.domain.formats.tools import (
    bare_definitions,
    definitions,
    sharegpt_call_text,
    sharegpt_calls,
)
from services.dataset.domain.formats.turns import MAX_MESSAGES, check_turns, learnt_weight
from services.dataset.domain.strict_json import Json

CONVERSATIONS, SYSTEM, TOOLS = "conversations", "system", "tools"
FIELDS = (CONVERSATIONS, SYSTEM, TOOLS)

FUNCTION_CALL = "function_call"
_ROLES = {
    "system": Role.SYSTEM,
    "human": Role.USER,
    "user": Role.USER,
    "gpt": Role.ASSISTANT,
    "assistant": Role.ASSISTANT,
    FUNCTION_CALL: Role.ASSISTANT,
    "observation": Role.TOOL,
    "tool": Role.TOOL,
}
_SPEAKERS = {
    Role.SYSTEM: "system",
    Role.USER: "human",
    Role.ASSISTANT: "gpt",
    Role.TOOL: "observation",
}
_TURN_FIELDS = ("from", "value", "weight", "train")
_STAND_IN = Message(Role.USER, "")


def read(row: Row) -> Conversation:
    """Raises BadLine."""
    flaws = Flaws()
    flaws.reject_unknown(row, FIELDS)
    messages, places = read_turns(row, flaws)
    tools = definitions(row.get(TOOLS), (TOOLS,), flaws)
    if not flaws.found:
        check_turns(messages, places, (CONVERSATIONS,), flaws)
    flaws.check()
    return Conversation(tuple(messages), tools)


def write(content: Content) -> Row:
    """Ids of calls, whether there may be several at once, and where an input begins are left out.
    Raises CannotHold."""
    conversation = require_conversation(content)
    if any(message.name for message in conversation):
        raise CannotHold("names of speakers")
    _require_answers_in_order(conversation)
    row: Row = {}
    turns = conversation.messages
    if turns and turns[0].role is Role.SYSTEM:
        row[SYSTEM], turns = turns[0].content, turns[1:]
    row[CONVERSATIONS] = [_row_of(turn) for turn in turns]
    if conversation.tools:
        row[TOOLS] = bare_definitions(conversation.tools)
    return row


def read_turns(row: Row, flaws: Flaws) -> tuple[list[Message], list[Path]]:
    """The system's and all others, each with its place in the row."""
    messages: list[Message] = []
    places: list[Path] = []
    if system := flaws.optional_text(row, SYSTEM):
        messages.append(Message(Role.SYSTEM, system))
        places.append((SYSTEM,))
    for index, item in enumerate(flaws.objects(row, CONVERSATIONS, MAX_MESSAGES)):
        messages.append(turn(item, (CONVERSATIONS, index), flaws))
        places.append((CONVERSATIONS, index, "from"))
    return messages, places


def turn(item: Json, path: Path, flaws: Flaws) -> Message:
    """The message, or a stand-in that is never used because `flaws` has grown."""
    if not flaws.is_object(item, path):
        return _STAND_IN
    before = len(flaws.found)
    flaws.reject_unknown(item, _TURN_FIELDS, path)
    speaker = flaws.text(item, "from", path)
    role = _ROLES.get(speaker)
    if role is None and speaker:
        known = "must be human, gpt, system, function_call or observation"
        flaws.add(FlawCode.UNKNOWN_ROLE, known, (*path, "from"))
    value = flaws.text(item, "value", path, may_be_empty=role is Role.TOOL)
    weight = learnt_weight(item, role, path, flaws)
    if role is None or len(flaws.found) > before:
        return _STAND_IN
    if speaker == FUNCTION_CALL:
        calls = sharegpt_calls(value, (*path, "value"), flaws)
        return Message(role, "", train=weight > 0, weight=weight or 1.0, tool_calls=calls)
    return Message(role, value, train=weight > 0, weight=weight or 1.0)


def _row_of(message: Message) -> Row:
    row: Row = {"from": _SPEAKERS[message.role], "value": message.content}
    if message.tool_calls:
        if message.content:
            raise CannotHold("a text beside calls of tools")
        row = {"from": FUNCTION_CALL, "value": sharegpt_call_text(message.tool_calls)}
    if message.role is Role.ASSISTANT and message.loss_weight != 1.0:
        row["weight"] = message.loss_weight or 0
    return row


def _require_answers_in_order(conversation: Conversation) -> None:
    pending: list[str] = []
    for message in conversation:
        if message.tool_calls:
            pending = [call.id for call in message.tool_calls]
        elif message.role is Role.TOOL and pending.pop(0) != message.tool_call_id:
            raise CannotHold("answers of tools in another order than their calls")
