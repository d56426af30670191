"""Places at which a test has a program die, fail or stand still: `failpoint("outbox.published")`.

Armed by one environment variable, which every program reads once, when it starts:

    ANNEAL_FAILPOINTS="outbox.published=exit@3,blobs.staged=sleep:2,blobs.staging=raise:ENOSPC"

| action | what happens |
| --- | --- |
| `exit` | the process is gone, as by kill -9: no handler, no flush, no goodbye |
| `raise`, `raise:ENOSPC` | FailpointReached, or the OSError of that name |
| `sleep:2` | the whole thread stands still for so many seconds, as if the host did |

Behind `@3` it happens the third time only, else every time. Unarmed, a failpoint does nothing.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import structlog

from services.common.faults import InvalidArgument, Violation

VARIABLE = "ANNEAL_FAILPOINTS"
EXIT_CODE = 86

FAILPOINTS: Mapping[str, str] = {
    "store.committing": "a transaction has written all its rows and not committed",
    "store.committed": "a transaction has committed, and nobody was told",
    "outbox.publishing": "the relay is about to publish an event",
    "outbox.published": "an event is in the stream and not marked as published",
    "outbox.marked": "events are published and marked",
    "inbox.received": "a message was delivered and had no effect",
    "inbox.handled": "a message's effect is written and not committed",
    "inbox.committed": "a message had its effect and is not acknowledged",
    "inbox.acknowledged": "a message is acknowledged",
    "blobs.staging": "a blob's first piece is about to be written",
    "blobs.staged": "a blob is written, and not in its place",
    "blobs.placed": "a blob was renamed into its place, and the rename is not synced",
    "blobs.fetched": "a fetched blob is written aside, and not in its place",
    "directories.stored": "the files of a directory are blobs, and its manifest is not",
    "directories.fetched": "a directory is fetched, and not in its place",
    "node.checkpointed": "a checkpoint and its events are stored, and control does not know",
    "node.completing": "a job's result and its events are stored, and control does not know",
}
"""What has happened, and what has not, when a program comes by."""

_ENTRY = re.compile(r"(?P<name>[^=]+)=(?P<action>[a-z]+)(:(?P<argument>[\w.]+))?(@(?P<turn>\d+))?")

_log = structlog.get_logger(__name__)


class FailpointReached(Exception):
    """What `raise` raises: nothing handles it by name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the failpoint {name} is armed to raise")


@dataclass
class _Armed:
    """`turn` 0: every time."""

    act: Callable[[], None]
    turn: int
    passed: int = 0

    def passes(self) -> None:
        self.passed += 1
        if self.turn in (0, self.passed):
            self.act()


_armed: dict[str, _Armed] = {}
"""Of this process, like the environment that it comes from."""


def failpoint(name: str) -> None:
    """Does what the environment has armed at this name, mostly nothing."""
    if _armed and (armed := _armed.get(name)) is not None:
        armed.passes()


def arm(env: Mapping[str, str] | None = None) -> None:
    """Arms what the environment names, and disarms all else. Raises InvalidArgument with every
    entry that is not understood."""
    text = (os.environ if env is None else env).get(VARIABLE, "")
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    armed: dict[str, _Armed] = {}
    violations: list[Violation] = []
    for entry in entries:
        try:
            name, armed_so = _parsed(entry)
        except ValueError as error:
            violations.append(Violation(VARIABLE, f"{entry!r}: {error}"))
        else:
            armed[name] = armed_so
    if violations:
        raise InvalidArgument(violations)
    _armed.clear()
    _armed.update(armed)
    if armed:
        _log.warning("failpoints.armed", failpoints=entries)


def _parsed(entry: str) -> tuple[str, _Armed]:
    """Raises ValueError."""
    parts = _ENTRY.fullmatch(entry)
    if parts is None:
        raise ValueError("must be name=action, name=action:argument or either with @turn behind it")
    name, turn = parts["name"], int(parts["turn"] or 0)
    if name not in FAILPOINTS:
        raise ValueError(f"there is no such failpoint; there are {', '.join(FAILPOINTS)}")
    if parts["turn"] and not turn:
        raise ValueError("turns count from 1")
    return name, _Armed(_action(name, parts["action"], parts["argument"]), turn)


def _action(name: str, action: str, argument: str | None) -> Callable[[], None]:
    match action, argument:
        case "exit", None:
            return partial(os._exit, EXIT_CODE)
        case "sleep", str():
            return partial(time.sleep, float(argument))
        case "raise", None:
            return partial(_raise, lambda: FailpointReached(name))
        case "raise", str() if hasattr(errno, argument):
            number = int(getattr(errno, argument))
            return partial(_raise, lambda: OSError(number, os.strerror(number)))
        case "raise", _:
            raise ValueError("raises FailpointReached, or an OSError by its name, as raise:ENOSPC")
        case _:
            raise ValueError("the action is exit, raise, raise:ENOSPC or sleep:SECONDS")


def _raise(error: Callable[[], Exception]) -> None:
    raise error()
