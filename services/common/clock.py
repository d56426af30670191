"""The time, as an argument."""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Says what time it is."""

    def now(self) -> datetime:
        """An aware datetime in UTC."""
        ...


class SystemClock:
    """The clock of this machine. Leases ask the database instead: `store.database_now`."""

    def now(self) -> datetime:
        return datetime.now(UTC)
