"""What can be wrong with one line of an upload, and where."""

from dataclasses import dataclass
from enum import StrEnum

Path = tuple[str | int, ...]
"""The keys and indexes that lead from the line's object to a value in it."""

MAX_POINTER_BYTES = 64


class FlawCode(StrEnum):
    """`LineFault.code` of the API."""

    NOT_UTF8 = "NOT_UTF8"
    LINE_TOO_LONG = "LINE_TOO_LONG"
    NOT_JSON = "NOT_JSON"
    NOT_AN_OBJECT = "NOT_AN_OBJECT"
    DUPLICATE_KEY = "DUPLICATE_KEY"
    NOT_A_FINITE_NUMBER = "NOT_A_FINITE_NUMBER"
    LONE_SURROGATE = "LONE_SURROGATE"
    TOO_DEEP = "TOO_DEEP"
    MISSING_FIELD = "MISSING_FIELD"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    WRONG_TYPE = "WRONG_TYPE"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    EMPTY = "EMPTY"
    UNKNOWN_ROLE = "UNKNOWN_ROLE"
    ROLE_ORDER = "ROLE_ORDER"
    NO_ASSISTANT_TURN = "NO_ASSISTANT_TURN"
    TOO_MANY_MESSAGES = "TOO_MANY_MESSAGES"
    UNKNOWN_TOOL_CALL = "UNKNOWN_TOOL_CALL"
    TOOL_CALL_UNANSWERED = "TOOL_CALL_UNANSWERED"
    NOT_CHATML = "NOT_CHATML"
    WRONG_PROMPT = "WRONG_PROMPT"
    SAME_ANSWERS = "SAME_ANSWERS"
    MIXED_FORMATS = "MIXED_FORMATS"
    COMPRESSION_DAMAGED = "COMPRESSION_DAMAGED"
    COMPRESSION_CUT_OFF = "COMPRESSION_CUT_OFF"
    UNKNOWN_CONTAINER = "UNKNOWN_CONTAINER"
    CONTAINER_DAMAGED = "CONTAINER_DAMAGED"
    CONTAINER_TOO_LARGE = "CONTAINER_TOO_LARGE"
    ENCRYPTED = "ENCRYPTED"
    NOT_TEXT = "NOT_TEXT"
    ARRAY_NOT_CLOSED = "ARRAY_NOT_CLOSED"
    AFTER_ARRAY = "AFTER_ARRAY"
    MISSING_COMMA = "MISSING_COMMA"
    MISSING_ELEMENT = "MISSING_ELEMENT"
    WRONG_FIELD_COUNT = "WRONG_FIELD_COUNT"
    STRAY_QUOTE = "STRAY_QUOTE"
    STRAY_RETURN = "STRAY_RETURN"
    QUOTE_NOT_CLOSED = "QUOTE_NOT_CLOSED"
    DUPLICATE_COLUMN = "DUPLICATE_COLUMN"
    EMPTY_COLUMN_NAME = "EMPTY_COLUMN_NAME"
    COLUMN_TYPE = "COLUMN_TYPE"


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing that is wrong with a line. `message` has at most 80 characters."""

    code: FlawCode
    message: str
    path: Path = ()

    @property
    def pointer(self) -> str:
        return pointer(self.path)


class BadLine(Exception):
    """A line that holds no labeled example, with everything that is wrong with it."""

    def __init__(self, *flaws: Flaw) -> None:
        super().__init__(*flaws)
        self.flaws = flaws


def pointer(path: Path) -> str:
    """A JSON pointer (RFC 6901) of at most 64 bytes.

    A longer path is cut at a whole key, so that the pointer names a value around the place.
    """
    text = ""
    for key in path:
        longer = f"{text}/{str(key).replace('~', '~0').replace('/', '~1')}"
        if len(longer.encode()) > MAX_POINTER_BYTES:
            return text
        text = longer
    return text
