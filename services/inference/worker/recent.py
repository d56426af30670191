"""A bounded number of things in memory."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """What was loaded from directories: the `limit` that were asked for last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loaded: OrderedDict[Path, T] = OrderedDict()

    def get(self, directory: Path, load: Callable[[Path], T]) -> T:
        """Raises what `load` does. Makes room before it loads, so that there are never more than
        `limit` in memory."""
        if directory not in self._loaded:
            while len(self._loaded) >= self._limit:
                self._loaded.popitem(last=False)
            self._loaded[directory] = load(directory)
        self._loaded.move_to_end(directory)
        return self._loaded[directory]
