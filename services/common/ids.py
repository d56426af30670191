"""Where identifiers come from. Domain code takes a `NewId`; only composition roots choose one."""

import re
import secrets
import uuid
from collections.abc import Callable

NewId = Callable[[], str]

_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_RANDOM_BYTES = 6
_CONTENT_ID_DIGITS = 16


def random_id(prefix: str) -> str:
    """`<prefix>-<12 hex digits>`: an RFC-1034 id if the prefix is one."""
    return f"{prefix}-{secrets.token_hex(_RANDOM_BYTES)}"


def content_id(digest: str) -> str:
    """`v-<16 hex digits>` of a sha256 in hex: the same content always has the same id."""
    if _SHA256_HEX.fullmatch(digest) is None:
        raise ValueError(f"not a sha256 in hex: {digest!r}")
    return f"v-{digest[:_CONTENT_ID_DIGITS]}"


def new_uid() -> str:
    """A UUID4 as text, never reused even if a name is."""
    return str(uuid.uuid4())
