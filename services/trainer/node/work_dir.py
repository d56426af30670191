"""The directory in which a node's engines work."""

import fcntl
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from services.common.process import StartupError

_LOCK = "lock"


@contextmanager
def sole_use(work_dir: Path) -> Generator[None]:
    """Holds the directory, emptied of what a killed node left in it.

    Raises StartupError when another node works there. The kernel lets go of a dead node's lock.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    with (work_dir / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(
                f"another node works in {work_dir}; give this one its own ANNEAL_WORK_DIR"
            ) from None
        for path in work_dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        yield
