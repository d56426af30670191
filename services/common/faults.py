"""What domain code raises: one class per category of failure, none of which knows gRPC.

A service subclasses the category and says what happened, so that the caller can act on it:

    class StaleAttempt(Aborted):
        def __init__(self, job: str, mine: int, current: int) -> None:
            super().__init__(
                "STALE_ATTEMPT", "the job was claimed again; stop work on it",
                job=job, mine=mine, current=current,
            )
"""

from collections.abc import Sequence
from dataclasses import dataclass


class Fault(Exception):
    """A failure that the caller is told about in full.

    `reason` is UPPER_SNAKE, at most 63 characters, and stable: programs branch on it.
    `message` tells a person what to do. `metadata` repeats every varying part of the message.
    `payload` is a value for the caller that the server's `detail_encoders` turn into a detail.
    """

    def __init__(
        self, reason: str, message: str, /, *, payload: object | None = None, **metadata: object
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.payload = payload
        self.metadata = {key: str(value) for key, value in metadata.items()}


@dataclass(frozen=True)
class Violation:
    """One field of a request that cannot be accepted. `field` is a dotted path."""

    field: str
    description: str
    reason: str = "INVALID"


class InvalidArgument(Fault):
    """The request is wrong whatever the state of the system. Carries every violation at once."""

    def __init__(
        self,
        violations: Sequence[Violation],
        /,
        *,
        payload: object | None = None,
        **metadata: object,
    ) -> None:
        if not violations:
            raise ValueError("an InvalidArgument names at least one violation")
        super().__init__(
            _shared_reason(violations), _summary(violations), payload=payload, **metadata
        )
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str, reason: str = "INVALID") -> "InvalidArgument":
        """The common case of one violation."""
        return InvalidArgument([Violation(field, description, reason)])


def _shared_reason(violations: Sequence[Violation]) -> str:
    reasons = {violation.reason for violation in violations} - {"INVALID"}
    return reasons.pop() if len(reasons) == 1 else "INVALID_ARGUMENT"


def _summary(violations: Sequence[Violation]) -> str:
    first = f"{violations[0].field}: {violations[0].description}"
    more = len(violations) - 1
    return first if not more else f"{first} (and {more} more)"


class NotFound(Fault):
    """There is no resource of that name, or it was deleted."""

    def __init__(self, name: object, /) -> None:
        super().__init__("RESOURCE_NOT_FOUND", f"{name} does not exist", resource=name)


class AlreadyExists(Fault):
    """The name is taken by another resource."""

    def __init__(self, name: object, /) -> None:
        super().__init__(
            "RESOURCE_ALREADY_EXISTS", f"{name} already exists; choose another id", resource=name
        )


class FailedPrecondition(Fault):
    """The system is in a state that forbids it; retrying alone does not help."""


class Aborted(Fault):
    """Somebody else was faster: read again, then repeat the whole operation."""


class PermissionDenied(Fault):
    """The caller is known and may not do this. Says nothing about what exists."""


class Unauthenticated(Fault):
    """The caller is not known."""


class ResourceExhausted(Fault):
    """A limit is reached. `retry_after_s` says when it may be free again, if that is known."""

    def __init__(
        self,
        reason: str,
        message: str,
        /,
        *,
        retry_after_s: float | None = None,
        payload: object | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(reason, message, payload=payload, **metadata)
        self.retry_after_s = retry_after_s


class Unavailable(Fault):
    """A part that we need does not answer; the same request may succeed after `retry_after_s`."""

    def __init__(
        self,
        reason: str,
        message: str,
        /,
        *,
        retry_after_s: float = 1.0,
        payload: object | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(reason, message, payload=payload, **metadata)
        self.retry_after_s = retry_after_s


class DataLoss(Fault):
    """Stored bytes are missing or are not what was stored."""
