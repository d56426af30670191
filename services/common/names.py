"""Resource names (AIP-122): `projects/default/datasets/support` ⇄ a frozen dataclass."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Self, cast

from services.common.faults import InvalidArgument

ID_RULE = "1-63 characters: lower-case letters, digits and hyphens, a letter first, no hyphen last"
_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ID_PATTERN = re.compile(_ID)
_PROJECT_PREFIX = re.compile(rf"projects/({_ID})(?:/.*)?", re.DOTALL)
_SHOWN_CHARACTERS = 200


class ResourceName:
    """A name whose shape is `pattern`. Subclass it as a frozen dataclass:

        @dataclass(frozen=True)
        class DatasetName(ResourceName):
            pattern = "projects/{project}/datasets/{dataset}"
            project: str
            dataset: str

    with one `str` field per variable, in the order of the pattern. Every id is RFC-1034, so a
    name never needs escaping in a path, a subject or SQL. `str(name)` gives the text.
    """

    pattern: ClassVar[str]

    def __post_init__(self) -> None:
        for field in _variables(self.pattern):
            require_id(getattr(self, field), field=field)

    def __str__(self) -> str:
        return self.pattern.format_map(vars(self))

    @classmethod
    def parse(cls, text: str, field: str = "name") -> Self:
        """Raises InvalidArgument naming `field` if the text has another shape."""
        match = _compiled(cls.pattern).fullmatch(text)
        if match is None:
            raise InvalidArgument.of(
                field,
                f"{text[:_SHOWN_CHARACTERS]!r} is not of the form {cls.pattern}; ids are {ID_RULE}",
                "RESOURCE_NAME_INVALID",
            )
        return cast(Callable[..., Self], cls)(**match.groupdict())


@dataclass(frozen=True)
class ProjectName(ResourceName):
    """The tenant: the root of every resource name."""

    pattern = "projects/{project}"
    project: str


def require_id(text: str, *, field: str) -> str:
    """The id itself if it is RFC-1034, else InvalidArgument naming `field`."""
    if _ID_PATTERN.fullmatch(text) is None:
        raise InvalidArgument.of(
            field, f"{text[:_SHOWN_CHARACTERS]!r} is not an id: {ID_RULE}", "RESOURCE_ID_INVALID"
        )
    return text


def project_of(text: str) -> str | None:
    """The project id of any name that starts with `projects/{project}`, else None."""
    match = _PROJECT_PREFIX.fullmatch(text)
    return match[1] if match else None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", rf"(?P<\1>{_ID})", pattern))


@cache
def _variables(pattern: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\{(\w+)\}", pattern))
