"""The rules that hold between the turns of a conversation, in whatever format it came."""

from collections.abc import Sequence

from services.chat.conversation import Message, Role
from services.dataset.domain.flaws import FlawCode, Path
from services.dataset.domain.formats.rows import Flaws, Row

MAX_MESSAGES = 256
"""How many messages a conversation may have."""

_ASKING = (Role.USER, Role.TOOL)


def learnt_weight(item: Row, role: Role | None, path: Path, flaws: Flaws) -> float:
    """How much a turn counts, 0 if it is not learnt: by its `weight`, or by `train`, which is true
    or false. By default an assistant's turn counts 1."""
    if "train" in item:
        return _by_flag(item, role, path, flaws)
    if "weight" not in item:
        return 1.0 if role is Role.ASSISTANT else 0.0
    here = (*path, "weight")
    if role is not Role.ASSISTANT:
        flaws.add(FlawCode.UNKNOWN_FIELD, "only an assistant's message has a weight", here)
        return 0.0
    return flaws.weight(item["weight"], here)


def _by_flag(item: Row, role: Role | None, path: Path, flaws: Flaws) -> float:
    learnt, here = item["train"], (*path, "train")
    if "weight" in item:
        flaws.add(FlawCode.UNKNOWN_FIELD, "only one of weight and train may stand here", here)
    if not isinstance(learnt, bool):
        flaws.add(FlawCode.WRONG_TYPE, "must be true or false", here)
    elif learnt and role is not Role.ASSISTANT:
        flaws.add(FlawCode.OUT_OF_RANGE, "only an assistant's message can be learnt", here)
    return float(learnt is True)


def check_turns(
    messages: Sequence[Message], places: Sequence[Path], whole: Path, flaws: Flaws
) -> None:
    """For messages without another flaw. `places` are theirs in the row, `whole` is their list's.

    An answer follows a question or what tools have answered; each call of a tool is answered before
    anybody else speaks, but for those of the last turn; the last turn is the assistant's.
    """
    if len(messages) > MAX_MESSAGES:
        text = f"makes {len(messages)} messages; {MAX_MESSAGES} are allowed"
        flaws.add(FlawCode.TOO_MANY_MESSAGES, text, whole)
    pending: list[str] | None = None
    before: Message | None = None
    for message, place in zip(messages, places, strict=True):
        if rule := _broken_rule(before, message):
            flaws.add(FlawCode.ROLE_ORDER, rule, place)
        if message.role is Role.TOOL:
            pending = _answered(pending, message, place, flaws)
        elif pending:
            flaws.add(FlawCode.TOOL_CALL_UNANSWERED, _unanswered(pending), place)
            pending = None
        if message.tool_calls:
            pending = [call.id for call in message.tool_calls]
        before = message
    _check_end(messages, places, whole, flaws)


def _broken_rule(before: Message | None, message: Message) -> str | None:
    role = message.role
    if role is Role.USER:
        return None
    if role is Role.SYSTEM:
        return "a system message may only be the first" if before else None
    if role is Role.ASSISTANT:
        follows = before is not None and before.role in _ASKING
        return None if follows else "an assistant's message must follow a user's or a tool's"
    follows = before is not None and (before.tool_calls or before.role is Role.TOOL)
    return None if follows else "a tool's message must follow the call that it answers"


def _answered(
    pending: list[str] | None, message: Message, place: Path, flaws: Flaws
) -> list[str] | None:
    """The calls that wait for an answer after this one. Calls without ids are answered in turn."""
    if pending is None:
        return None
    if message.tool_call_id in pending:
        answered = pending.index(message.tool_call_id)
        return pending[:answered] + pending[answered + 1 :]
    known = ", ".join(filter(None, pending)) or "none by an id"
    flaws.add(FlawCode.UNKNOWN_TOOL_CALL, f"answers no open call; open are: {known}", place)
    return pending


def _unanswered(pending: Sequence[str]) -> str:
    return f"{len(pending)} tool calls before this message have no answer"


def _check_end(
    messages: Sequence[Message], places: Sequence[Path], whole: Path, flaws: Flaws
) -> None:
    if not any(message.train for message in messages):
        text = "no assistant's message of a weight above 0: nothing to learn"
        flaws.add(FlawCode.NO_ASSISTANT_TURN, text, whole)
    elif messages[-1].role is not Role.ASSISTANT:
        flaws.add(FlawCode.ROLE_ORDER, "the last message must be the assistant's", places[-1])
