"""Sizes and times as people write them: `80GB`, `2h`, `2026-12-01T08:00Z`."""

import re
from datetime import datetime, timedelta

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(I?)B", re.IGNORECASE)
_NUMBER = r"(\d+(?:\.\d+)?)"
_SPAN = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?")
_MOST_BYTES = 2**63 - 1
_POWERS = ("", "K", "M", "G", "T")


def bytes_of(text: str) -> int:
    """Returns the bytes of `80GB` (powers of 1000) or `80GiB` (of 1024). Raises ValueError."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no size: say for example 80GB, or 80GiB")
    number, prefix, binary = found.groups()
    size = round(float(number) * (1024 if binary else 1000) ** _POWERS.index(prefix.upper()))
    if size > _MOST_BYTES:
        raise ValueError(f"{text!r} is more than any device has")
    return size


def time_of(text: str, now: datetime) -> datetime:
    """Returns the time that is `2h`, `90m` or `1d12h` after `now`, or that ISO 8601 says; without
    a zone it is of this machine's. Raises ValueError."""
    try:
        return _after(text, now) or datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        words = f"{text!r} is no time: say for example 2h, or 2026-12-01T08:00Z"
        raise ValueError(words) from None


def _after(text: str, now: datetime) -> datetime | None:
    found = _SPAN.fullmatch(text)
    if not text or found is None:
        return None
    days, hours, minutes, seconds = map(float, found.groups(default="0"))
    return now + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
