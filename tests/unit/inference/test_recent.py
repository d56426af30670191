"""What was loaded stays in memory, but not too much of it."""

from pathlib import Path

import pytest

from services.inference.worker.recent import Recent


class Directories:
    """Counts what is loaded and what is still in memory."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.alive: set[str] = set()
        self.most_alive = 0

    def load(self, directory: Path) -> "Loaded":
        self.loads.append(directory.name)
        return Loaded(self, directory.name)


class Loaded:
    def __init__(self, directories: Directories, name: str) -> None:
        self._directories, self._name = directories, name
        directories.alive.add(name)
        directories.most_alive = max(directories.most_alive, len(directories.alive))

    def __del__(self) -> None:
        self._directories.alive.discard(self._name)


def ask(recent: Recent[Loaded], directories: Directories, names: str) -> None:
    for name in names:
        recent.get(Path(name), directories.load)


def test_what_is_asked_for_again_is_not_loaded_again() -> None:
    directories = Directories()

    ask(Recent[Loaded](2), directories, "abab")

    assert directories.loads == ["a", "b"]


def test_the_least_recently_asked_for_goes_first() -> None:
    directories, recent = Directories(), Recent[Loaded](2)

    ask(recent, directories, "abac")

    assert directories.alive == {"a", "c"}


def test_room_is_made_before_something_is_loaded() -> None:
    directories = Directories()

    ask(Recent[Loaded](2), directories, "abcdab")

    assert directories.most_alive == 2


def test_what_fails_to_load_is_tried_again() -> None:
    def fail(directory: Path) -> Loaded:
        raise OSError(str(directory))

    directories, recent = Directories(), Recent[Loaded](2)
    with pytest.raises(OSError, match="a"):
        recent.get(Path("a"), fail)
    ask(recent, directories, "a")

    assert directories.loads == ["a"]
