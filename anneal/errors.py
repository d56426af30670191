"""What a call to a service may raise: one small tree, and the table from status codes to it.

AnnealError
├── InvalidArgument        the request is wrong: `violations` names every field
│   └── UploadRejected     lines of an upload are wrong: `faults` names the first hundred
├── NotFound, AlreadyExists
├── FailedPrecondition     not in this state
├── Aborted                somebody else was faster: read again, then decide
├── PermissionDenied, Unauthenticated
├── ResourceExhausted, Unavailable     try again, after `retry_after_s` where it is known
├── DeadlineExceeded       no answer in time; with a request_id it is safe to ask again
├── DataLoss               bytes are not what their digest says
└── ServerError            the service's fault; report `request_id` and `metadata`
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Violation:
    """A field of a request that was refused. `field` is a dotted path into the request."""

    field: str
    description: str
    reason: str = ""


@dataclass(frozen=True)
class LineFault:
    """A fault of one line of an upload.

    `line` counts from 1, `pointer` is a JSON pointer (RFC 6901) into the line.
    """

    line: int
    code: str
    pointer: str
    message: str


@dataclass(frozen=True)
class Refusal:
    """A status with its details, as a service sent it or as the client found it.

    `code` is the canonical status code (`NOT_FOUND`), `reason` the stable word that programs
    branch on (`DATASET_NOT_FOUND`), `request_id` what the service's log calls the request.
    """

    code: str
    reason: str
    message: str
    violations: Sequence[Violation] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    request_id: str = ""
    retry_after_s: float | None = None


class AnnealError(Exception):
    """A call that did not succeed. Its attributes are those of `Refusal`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.code = refusal.code
        self.reason = refusal.reason
        self.message = refusal.message
        self.violations = tuple(refusal.violations)
        self.metadata = dict(refusal.metadata)
        self.request_id = refusal.request_id
        self.retry_after_s = refusal.retry_after_s


class InvalidArgument(AnnealError):
    """The request is wrong whatever the state of the system; `violations` has every fault."""


class UploadRejected(InvalidArgument):
    """Nothing was stored. `faults`: the first hundred of `fault_count`, of `line_count` lines."""

    def __init__(
        self, refusal: Refusal, faults: Sequence[LineFault], fault_count: int, line_count: int
    ) -> None:
        super().__init__(refusal)
        self.faults = tuple(faults)
        self.fault_count = fault_count
        self.line_count = line_count


class NotFound(AnnealError):
    """There is nothing by that name."""


class AlreadyExists(AnnealError):
    """The name is taken."""


class FailedPrecondition(AnnealError):
    """Not in this state; the same call may succeed when the state has changed."""


class Aborted(AnnealError):
    """The resource changed in between: read it again, then decide."""


class PermissionDenied(AnnealError):
    """The key does not cover this permission or project."""


class Unauthenticated(AnnealError):
    """No key, or one that is not known."""


class ResourceExhausted(AnnealError):
    """A limit is reached; try again after `retry_after_s` where it is known."""


class Unavailable(AnnealError):
    """The service, or one that it needs, does not answer; try again."""


class DeadlineExceeded(AnnealError):
    """No answer in time. The call may have had its effect."""


class DataLoss(AnnealError):
    """Bytes are missing, or are not what their digest says."""


class ServerError(AnnealError):
    """The service's own fault, or an answer that this client does not know."""


BY_CODE: Mapping[str, type[AnnealError]] = {
    "INVALID_ARGUMENT": InvalidArgument,
    "OUT_OF_RANGE": InvalidArgument,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": FailedPrecondition,
    "ABORTED": Aborted,
    "PERMISSION_DENIED": PermissionDenied,
    "UNAUTHENTICATED": Unauthenticated,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "DATA_LOSS": DataLoss,
}


def error_of(refusal: Refusal) -> AnnealError:
    """Returns the exception that stands for a status; `ServerError` for any unexpected code."""
    return BY_CODE.get(refusal.code, ServerError)(refusal)
