"""A conversation as ChatML writes it, in one text: `<|im_start|>user\\n…<|im_end|>\\n…`.

Each answer is learnt. White space between turns, and none, is the same.
"""

from services.chat.conversation import Content, Conversation, Message, Role
from services.dataset.domain.flaws import FlawCode, Path
from services.dataset.domain.formats.rows import (
    CannotHold,
    Flaws,
    Row,
    require_conversation,
    require_texts,
    require_unweighted,
)
from services.dataset.domain.formats.turns import MAX_MESSAGES, check_turns

TEXT = "text"
FIELDS = (TEXT,)

_START, _END = "<|im_start|>", "<|im_end|>"
_ROLES = {role.value: role for role in (Role.SYSTEM, Role.USER, Role.ASSISTANT)}


def begins(row: Row) -> bool:
    """Whether the text is of this format, by how it begins."""
    text = row.get(TEXT)
    return isinstance(text, str) and text.lstrip().startswith(_START)


def read(row: Row) -> Conversation:
    """Raises BadLine."""
    flaws = Flaws()
    flaws.reject_unknown(row, FIELDS)
    text = flaws.text(row, TEXT)
    messages = _turns(text, flaws) if text else []
    if not flaws.found:
        places: list[Path] = [(TEXT,)] * len(messages)
        check_turns(messages, places, (TEXT,), flaws)
    flaws.check()
    return Conversation(tuple(messages))


def write(content: Content) -> Row:
    """Where an input begins, and that there are no tools, is left out. Raises CannotHold."""
    conversation = require_conversation(content)
    require_texts(conversation)
    require_unweighted(conversation)
    return {TEXT: "".join(map(_text_of, conversation))}


def _turns(text: str, flaws: Flaws) -> list[Message]:
    messages: list[Message] = []
    position = _after_space(text, 0)
    while position < len(text):
        turn = len(messages) + 1
        if turn > MAX_MESSAGES:
            flaws.add(FlawCode.TOO_MANY_MESSAGES, f"{MAX_MESSAGES} turns are allowed", (TEXT,))
            break
        end = _turn_end(text, position)
        if end is None:
            place = f"turn {turn}, at character {position + 1}"
            flaws.add(FlawCode.NOT_CHATML, f"{place}: not {_START}role, a line, {_END}", (TEXT,))
            break
        messages.append(_message(text[position + len(_START) : end], turn, flaws))
        position = _after_space(text, end + len(_END))
    return messages


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1].isspace():
        position += 1
    return position


def _turn_end(text: str, position: int) -> int | None:
    """Where the mark stands that ends the turn which begins here; None if that is none."""
    if not text.startswith(_START, position):
        return None
    begun = position + len(_START)
    end = text.find(_END, begun)
    is_whole = end >= 0 and text.find("\n", begun, end) >= 0
    return end if is_whole and text.find(_START, begun, end) < 0 else None


def _message(turn: str, number: int, flaws: Flaws) -> Message:
    """The message, or a stand-in that is never used because `flaws` has grown."""
    speaker, content = turn.split("\n", 1)
    role = _ROLES.get(speaker.strip())
    if role is None:
        known = f"turn {number}: the role must be system, user or assistant"
        flaws.add(FlawCode.UNKNOWN_ROLE, known, (TEXT,))
    if not content:
        flaws.add(FlawCode.EMPTY, f"turn {number} must not be empty", (TEXT,))
    return Message(role or Role.USER, content, train=role is Role.ASSISTANT)


def _text_of(message: Message) -> str:
    if _START in message.content or _END in message.content:
        raise CannotHold(f"a message with {_START} or {_END} in it")
    return f"{_START}{message.role.value}\n{message.content}{_END}\n"
