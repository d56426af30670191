"""Optimistic concurrency (AIP-154): a caller sends back the etag of the state it has seen."""

import hashlib
import json

from services.common.faults import Aborted

_ETAG_DIGITS = 16


def etag(*parts: str | int) -> str:
    """A quoted strong validator of `parts`, which must change whenever the resource does."""
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return f'"{digest[:_ETAG_DIGITS]}"'


def require_match(given: str, current: str) -> None:
    """Raises Aborted STALE_ETAG unless `given` is `current` or empty: then any state will do."""
    if given and given != current:
        raise Aborted(
            "STALE_ETAG",
            "the resource has changed since you read it; read it again and repeat",
            given=given,
            current=current,
        )
