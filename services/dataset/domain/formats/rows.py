"""What the readers of all formats share: the values of a row, and the flaws found in it."""

import json
from collections.abc import Collection
from typing import Any, TypeGuard

from services.chat.conversation import (
    LEAST_WEIGHT,
    MOST_WEIGHT,
    Content,
    Conversation,
    Preference,
    Role,
)
from services.dataset.domain.flaws import BadLine, Flaw, FlawCode, Path
from services.dataset.domain.strict_json import Json, parse

Row = dict[str, Json]

MAX_NAME_CHARACTERS = 256
"""Of whatever names something: a speaker, a tool, a call."""


class Flaws:
    """The flaws of one row, as they are found."""

    def __init__(self) -> None:
        self.found: list[Flaw] = []

    def add(self, code: FlawCode, message: str, path: Path) -> None:
        self.found.append(Flaw(code, message[:80], path))

    def check(self) -> None:
        """Raises BadLine if there are any."""
        if self.found:
            raise BadLine(*self.found)

    def text(self, row: Row, key: str, path: Path = (), *, may_be_empty: bool = False) -> str:
        """The string under `key`, not empty unless it may be; or an empty one and a flaw more."""
        value = row.get(key)
        if isinstance(value, str) and (value or may_be_empty):
            return value
        if key not in row:
            self.add(FlawCode.MISSING_FIELD, "is missing", (*path, key))
        elif not isinstance(value, str):
            self.add(FlawCode.WRONG_TYPE, "must be a string", (*path, key))
        else:
            self.add(FlawCode.EMPTY, "must not be empty", (*path, key))
        return ""

    def optional_text(self, row: Row, key: str, path: Path = ()) -> str:
        """The string under `key`; an empty one where there is none or null."""
        if row.get(key) is None:
            return ""
        return self.text(row, key, path, may_be_empty=True)

    def objects(
        self,
        row: Row,
        key: str,
        limit: int,
        path: Path = (),
        *,
        too_many: FlawCode = FlawCode.TOO_MANY_MESSAGES,
    ) -> list[Json]:
        """The items of the non-empty list under `key`; none if it is wrong as a whole."""
        value, here = row.get(key), (*path, key)
        if key not in row:
            self.add(FlawCode.MISSING_FIELD, f"the line lacks {key}", here)
        elif not isinstance(value, list):
            self.add(FlawCode.WRONG_TYPE, "must be a list", here)
        elif not value:
            self.add(FlawCode.EMPTY, "must not be empty", here)
        elif len(value) > limit:
            self.add(too_many, f"has {len(value)}; {limit} are allowed", here)
        else:
            return value
        return []

    def name(self, row: Row, key: str, path: Path) -> str:
        """The string under `key`, not empty and no longer than a name may be."""
        text = self.text(row, key, path)
        self.check_length(text, (*path, key))
        return text

    def check_length(self, text: str, path: Path) -> None:
        """Of a name or an id."""
        if len(text) > MAX_NAME_CHARACTERS:
            message = f"has {len(text)} characters; {MAX_NAME_CHARACTERS} are allowed"
            self.add(FlawCode.OUT_OF_RANGE, message, path)

    def is_object(self, value: Json, path: Path) -> TypeGuard[Row]:
        """Whether it is one; adds a flaw if not."""
        if isinstance(value, dict):
            return True
        self.add(FlawCode.NOT_AN_OBJECT, "must be an object", path)
        return False

    def reject_unknown(self, row: Row, known: Collection[str], path: Path = ()) -> None:
        for key in row:
            if key not in known:
                allowed = f"only {', '.join(sorted(known))} may stand here"
                self.add(FlawCode.UNKNOWN_FIELD, allowed, (*path, key))

    def weight(self, value: Json, path: Path) -> float:
        """How much a turn counts, 0 if it is not learnt."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.add(FlawCode.WRONG_TYPE, "must be a number", path)
        elif value != 0 and not LEAST_WEIGHT <= value <= MOST_WEIGHT:
            message = f"must be 0, or {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}"
            self.add(FlawCode.OUT_OF_RANGE, message, path)
        else:
            return float(value)
        return 0.0

    def json(self, text: str, path: Path) -> Json:
        """The value that a string holds as JSON; None and a flaw more if it holds none."""
        try:
            return parse(text.encode())
        except BadLine as bad:
            for flaw in bad.flaws:
                self.add(flaw.code, f"in a string of JSON: {flaw.message}", path)
            return None


class CannotHold(Exception):
    """A format has no place for something that an example holds; `what` names it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the format cannot hold {what}")
        self.what = what


def require_conversation(content: Content) -> Conversation:
    """The example itself if it is one; raises CannotHold."""
    if isinstance(content, str):
        raise CannotHold("a plain text")
    if isinstance(content, Preference):
        raise CannotHold("a preference between two answers")
    return content


def require_texts(conversation: Conversation) -> None:
    """Raises CannotHold if there is more to the turns than who says what."""
    if conversation.uses_tools:
        raise CannotHold("tools")
    if any(message.name for message in conversation):
        raise CannotHold("names of speakers")


def require_unweighted(conversation: Conversation) -> None:
    """Raises CannotHold if not each answer is learnt, and fully."""
    if any(m.role is Role.ASSISTANT and m.loss_weight != 1.0 for m in conversation):
        raise CannotHold("weights of messages, or answers that are not learnt")


def require_object(value: Json) -> Row:
    """The value itself if it is an object; raises BadLine."""
    if not isinstance(value, dict):
        raise BadLine(Flaw(FlawCode.NOT_AN_OBJECT, "the line must be a JSON object"))
    return value


def json_text(value: Any) -> str:
    """The one way in which we write JSON into a string."""
    return json.dumps(value, ensure_ascii=False)
