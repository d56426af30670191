"""One text field, every token of which is learnt: continued pretraining."""

from services.chat.conversation import Content
from services.dataset.domain.formats.rows import CannotHold, Flaws, Row

TEXT = "text"
FIELDS = (TEXT,)


def read(row: Row) -> str:
    """Raises BadLine."""
    flaws = Flaws()
    flaws.reject_unknown(row, FIELDS)
    text = flaws.text(row, TEXT)
    flaws.check()
    return text


def write(content: Content) -> Row:
    """Raises CannotHold."""
    if not isinstance(content, str):
        raise CannotHold("turns of a conversation")
    return {TEXT: content}
