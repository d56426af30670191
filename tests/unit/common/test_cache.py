"""A cache with a limit: what goes, what stays, and whom it does not disturb."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.common.cache import Cache, Uses


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path, limit_bytes=250)


def used(cache: Cache, name: str, time_s: float, uses: Uses | None = None) -> Path:
    """An entry of 100 bytes in two files that was last used then."""
    entry = cache.directory / "directories" / name
    own = Uses() if uses is None else uses
    cache.use(entry, own)
    entry.mkdir(exist_ok=True)
    for part in ("a", "b"):
        (entry / part).write_bytes(bytes(50))
    os.utime(cache.directory / "locks" / f"directories-{name}", (time_s, time_s))
    if uses is None:
        own.end()
    return entry


def there(cache: Cache) -> set[str]:
    return {path.name for path in (cache.directory / "directories").iterdir()}


def test_the_least_recently_used_goes_first(cache: Cache) -> None:
    for name, time_s in (("old", 1), ("newest", 3), ("newer", 2)):
        used(cache, name, time_s)

    cache.make_room()

    assert there(cache) == {"newest", "newer"}


def test_using_an_entry_again_keeps_it(cache: Cache) -> None:
    for name, time_s in (("old", 1), ("newer", 2), ("newest", 3)):
        used(cache, name, time_s)
    uses = Uses()
    cache.use(cache.directory / "directories" / "old", uses)
    uses.end()

    cache.make_room()

    assert there(cache) == {"old", "newest"}


def test_what_is_in_use_stays_however_full_it_is(cache: Cache) -> None:
    uses = Uses()
    for number in range(4):
        used(cache, f"e{number}", number, uses)

    cache.make_room()
    assert len(there(cache)) == 4

    uses.end()
    cache.make_room()
    assert there(cache) == {"e2", "e3"}


def test_what_another_process_uses_stays_until_it_dies(cache: Cache) -> None:
    for number in range(3):
        used(cache, f"e{number}", number)
    program = f"""
from pathlib import Path
from services.common.cache import Cache, Uses
uses = Uses()
Cache(Path({str(cache.directory)!r})).use(Path({str(cache.directory)!r}) / "directories/e0", uses)
print("ready", flush=True)
input()
"""
    user = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with user:
        assert user.stdout is not None
        user.stdout.readline()
        os.utime(cache.directory / "locks" / "directories-e0", (0, 0))
        cache.make_room()
        assert "e0" in there(cache)
        user.kill()
    used(cache, "e4", 4)

    cache.make_room()

    assert "e0" not in there(cache)


def test_files_and_directories_count_alike(cache: Cache) -> None:
    used(cache, "directory", 2)
    file = cache.directory / "files" / "x.parquet"
    uses = Uses()
    cache.use(file, uses)
    file.write_bytes(bytes(200))
    uses.end()
    os.utime(cache.directory / "locks" / "files-x.parquet", (1, 1))

    cache.make_room()

    assert not file.exists()
    assert there(cache) == {"directory"}


def test_without_a_limit_nothing_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for number in range(9):
        used(cache, f"e{number}", number)

    cache.make_room()

    assert len(there(cache)) == 9


def test_what_a_dead_process_left_half_done_goes_after_a_day(cache: Cache) -> None:
    used(cache, "whole", 1)
    for name in (".fresh.ab", ".stale.cd"):
        (cache.directory / "directories" / name).mkdir()
    os.utime(cache.directory / "directories" / ".stale.cd", (1, 1))

    cache.make_room()

    assert there(cache) == {"whole", ".fresh.ab"}
