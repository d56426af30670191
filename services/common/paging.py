"""Pages and their tokens (AIP-158). A token is signed, opaque, and gives no authority."""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from services.common.faults import InvalidArgument

T = TypeVar("T")
Key = tuple[str | int, ...]

_MAC_BYTES = 16
_MAX_TOKEN_CHARACTERS = 4096
_MIN_SECRET_BYTES = 16


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items in order. `next_key` is the key of the last one, or None at the end."""

    items: tuple[T, ...]
    next_key: Key | None

    @classmethod
    def cut(cls, rows: Sequence[T], size: int, key: Callable[[T], Key]) -> "Page[T]":
        """A page from up to `size + 1` rows: the row too many only proves that there is more."""
        items = tuple(rows[:size])
        return Page(items, key(items[-1]) if len(rows) > size else None)


def page_size(requested: int, *, default: int, maximum: int) -> int:
    """0 means `default`, more than `maximum` means `maximum`, negative is InvalidArgument."""
    if requested < 0:
        raise InvalidArgument.of("page_size", "must not be negative", "PAGE_SIZE_NEGATIVE")
    return min(requested or default, maximum)


def scope_of(*parts: str) -> str:
    """What a token is good for: every argument of the List call but page_size and page_token."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class PageTokens:
    """Turns the key of the last row into a token and back.

    All replicas of a service share `secret`; with another one, older tokens are refused.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < _MIN_SECRET_BYTES:
            raise ValueError(f"a page token secret has at least {_MIN_SECRET_BYTES} bytes")
        self._secret = secret

    def encode(self, last_key: Sequence[str | int], *, scope: str) -> str:
        body = json.dumps(list(last_key), separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._mac(body, scope) + body).decode()

    def decode(self, token: str, *, scope: str) -> Key:
        """Raises InvalidArgument PAGE_TOKEN_INVALID unless `encode` made it for this scope."""
        signed = _unbase64(token)
        mac, body = signed[:_MAC_BYTES], signed[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body, scope)):
            raise _invalid_token()
        return tuple(cast("list[str | int]", json.loads(body)))

    def _mac(self, body: bytes, scope: str) -> bytes:
        signed = scope.encode() + b"\0" + body
        return hmac.digest(self._secret, signed, "sha256")[:_MAC_BYTES]


def _unbase64(token: str) -> bytes:
    """Exact: a token that decodes alike but is spelled differently is an edited token."""
    try:
        signed = base64.b64decode(token[:_MAX_TOKEN_CHARACTERS], altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid_token() from error
    if base64.urlsafe_b64encode(signed).decode() != token:
        raise _invalid_token()
    return signed


def _invalid_token() -> InvalidArgument:
    return InvalidArgument.of(
        "page_token",
        "not a token of this list; repeat the other arguments, or start again without a token",
        "PAGE_TOKEN_INVALID",
    )
