"""Values from outside, made into values of the domain or refused with every violation."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from services.common.faults import InvalidArgument
from services.common.violations import violations_of

T = TypeVar("T")


def checked(kind: TypeAdapter[T], given: Mapping[str, object], root: str) -> T:
    """`given`, by field, as a `kind`. Raises InvalidArgument with every violation; fields are named
    from `root` on, which is empty for the request itself."""
    try:
        return kind.validate_python(given)
    except ValidationError as error:
        raise InvalidArgument(violations_of(error, root)) from error
