"""The directory that holds an installation's state: lock, secret, logs, addresses."""

import fcntl
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from anneal.addresses import ADDRESSES_FILE, Addresses
from anneal.up.failures import PlatformError

SECRET_BYTES = 32
LOG_LIMIT_BYTES = 16 * 1024 * 1024


class DataDir:
    """A data directory. Making one makes the directory; the path becomes absolute."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlatformError(f"cannot use {path} as data directory: {error.strerror}") from error

    @property
    def addresses_file(self) -> Path:
        return self.path / ADDRESSES_FILE

    def folder(self, *parts: str) -> Path:
        """Returns a folder in it, made if need be."""
        path = self.path.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def locked(self) -> Generator[None]:
        """Holds it against a second `anneal up`. Raises PlatformError when there is a first."""
        with (self.path / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PlatformError(_taken(self.path, file)) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def page_secret(self) -> str:
        """Returns the secret that signs page tokens, hexadecimal; made at the first start."""
        path = self.path / "page-secret"
        if not path.exists():
            aside = path.with_suffix(".part")
            with os.fdopen(
                os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
            ) as file:
                file.write(secrets.token_hex(SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        return path.read_text("utf-8").strip()

    def publish(self, addresses: Addresses) -> None:
        """Tells clients on this machine where the services are, as long as they run."""
        aside = self.addresses_file.with_suffix(".part")
        aside.write_text(addresses.to_json(), "utf-8")
        aside.replace(self.addresses_file)

    def withdraw(self) -> None:
        self.addresses_file.unlink(missing_ok=True)

    def open_log(self, name: str) -> TextIO:
        """Opens `logs/<name>.log` to append; one that has grown large becomes `<name>.log.1`."""
        path = self.folder("logs") / f"{name}.log"
        if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return path.open("a", encoding="utf-8", buffering=1)


def _taken(path: Path, lock: TextIO) -> str:
    lock.seek(0)
    holder = lock.read().strip() or "unknown"
    return f"another `anneal up` (process {holder}) runs on {path}; stop it or use --data-dir"
