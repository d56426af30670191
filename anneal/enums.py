"""Values of the protos' enums as words: `SCHEDULE_COSINE` of `Schedule` is `COSINE`.

`enum` is an EnumDescriptor, of which protobuf has two classes.
"""

from typing import Any


def word_of(enum: Any, number: int) -> str:
    """Returns the value's word; of a value that these protos do not know, its number."""
    value = enum.values_by_number.get(number)
    return str(number) if value is None else str(value.name).removeprefix(_prefix(enum))


def number_of(enum: Any, word: str) -> int:
    """Raises KeyError for a word that the enum does not have."""
    return int(enum.values_by_name[f"{_prefix(enum)}{word}"].number)


def _prefix(enum: Any) -> str:
    """Every enum has `…_UNSPECIFIED` at 0."""
    return str(enum.values_by_number[0].name).removesuffix("UNSPECIFIED")
