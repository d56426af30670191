"""The promise that a caller makes with a `request_id` (AIP-155), apart from where it is kept."""

import hashlib
import uuid
from dataclasses import dataclass

from services.common.faults import InvalidArgument

_SHOWN_CHARACTERS = 64


@dataclass(frozen=True)
class RequestKey:
    """Who promised to send this only once: a request_id is unique in its project and method."""

    project: str
    method: str
    request_id: str


def fingerprint(message: bytes) -> str:
    """What tells two requests apart: a hash of the deterministically serialized message."""
    return hashlib.sha256(message).hexdigest()


def require_uuid4(text: str, *, field: str = "request_id") -> str:
    """The text itself if it is a UUID4 in its usual form, else InvalidArgument naming `field`."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.version != 4 or str(parsed) != text.lower():
        raise InvalidArgument.of(
            field, f"{text[:_SHOWN_CHARACTERS]!r} is not a UUID4", "REQUEST_ID_INVALID"
        )
    return text
