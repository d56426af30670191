"""What pydantic finds wrong, as the violations that a caller is told of."""

import re

from pydantic import ValidationError

from services.common.faults import Violation

_NOT_UPPER_SNAKE = re.compile(r"[^A-Z0-9]+")
_MOST_CHARACTERS = 63


def violations_of(error: ValidationError, root: str = "") -> list[Violation]:
    """Every one; nested fields as `root.path.0.to`, without a root as `path.0.to`."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        Violation(
            field=".".join(filter(None, (root, *map(str, one["loc"])))),
            description=one["msg"].removeprefix("Value error, "),
            reason=_NOT_UPPER_SNAKE.sub("_", one["type"].upper())[:_MOST_CHARACTERS],
        )
        for one in found
    ]
