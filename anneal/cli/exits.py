"""The exit codes, which scripts may rely on."""

from enum import IntEnum

from anneal.errors import (
    AnnealError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)


class Exit(IntEnum):
    """How a command ended. `MEANINGS` says it in words."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    AUTH = 4
    UNAVAILABLE = 5
    JOB_NOT_SUCCEEDED = 6
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.OK: "done",
    Exit.FAILURE: "failed",
    Exit.USAGE: "wrong arguments, or values that the service refuses",
    Exit.NOT_FOUND: "no such resource",
    Exit.AUTH: "no valid API key, or one that does not cover this",
    Exit.UNAVAILABLE: "a service does not answer, or not in time",
    Exit.JOB_NOT_SUCCEEDED: "the watched job failed or was cancelled",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
}

_BY_ERROR: tuple[tuple[type[AnnealError], Exit], ...] = (
    (InvalidArgument, Exit.USAGE),
    (NotFound, Exit.NOT_FOUND),
    (Unauthenticated, Exit.AUTH),
    (PermissionDenied, Exit.AUTH),
    (Unavailable, Exit.UNAVAILABLE),
    (DeadlineExceeded, Exit.UNAVAILABLE),
)


def exit_for(error: Exception) -> Exit:
    """Returns the exit code for what a command raised."""
    fitting = (code for kind, code in _BY_ERROR if isinstance(error, kind))
    return next(fitting, Exit.FAILURE)
