"""What keeps the platform from running."""

from collections.abc import Sequence


class PlatformError(Exception):
    """Says in one line what to change; `last_lines` is what the failed program wrote last."""

    def __init__(self, message: str, last_lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.last_lines = tuple(last_lines)
