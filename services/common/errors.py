"""The one table from what happened to what a caller is told (AIP-193)."""

import errno
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from services.common import faults
from services.common.faults import Fault, InvalidArgument
from services.common.ids import NewId, random_id
from services.common.violations import violations_of

DOMAIN = "anneal"
STATUS_METADATA_KEY = "grpc-status-details-bin"

CODES: Mapping[type[Fault], grpc.StatusCode] = {
    faults.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    faults.NotFound: grpc.StatusCode.NOT_FOUND,
    faults.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    faults.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    faults.Aborted: grpc.StatusCode.ABORTED,
    faults.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    faults.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    faults.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    faults.Unavailable: grpc.StatusCode.UNAVAILABLE,
    faults.DataLoss: grpc.StatusCode.DATA_LOSS,
}
# What another service answered when it could not answer: the caller may try us again.
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_DEPENDENCY_DOWN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}

# grpc's classes are generic in their stubs only, hence the quotes.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
DetailEncoders = Mapping[type[Any], Callable[[Any], Message]]

# A client drops a call whose trailers are too big: grpcio's own limit starts at 8 KiB. One that
# can take more says so in its metadata, as ours does.
STATUS_LIMIT_METADATA_KEY = "x-anneal-status-limit"
_STATUS_LIMIT_BYTES = 6 * 1024
_STATUS_LIMIT_MOST_BYTES = 48 * 1024
_TEXT_LIMIT_CHARACTERS = 1000

log: FilteringBoundLogger = structlog.get_logger(__name__)


class DeadlineExceeded(Exception):
    """The call ran longer than the limit that the server set for it. Raised by the deadline."""


def to_status(
    error: Exception,
    *,
    encoders: DetailEncoders | None = None,
    error_id: str = "",
    limit_bytes: int = _STATUS_LIMIT_BYTES,
) -> status_pb2.Status:
    """The status that a caller gets, always with an ErrorInfo.

    A Fault is told in full, as far as `limit_bytes` go: the largest detail loses the last half of
    its entries until all fits, and ErrorInfo counts them in `entries_left_out`. Anything unknown
    becomes INTERNAL with `error_id` and none of its text, which may hold paths or secrets.
    """
    known = _known(error)
    if known is None:
        return _internal(error_id)
    code, fault = known
    details: list[Message] = [_error_info(fault), *_standard_details(fault)]
    encode = (encoders or {}).get(type(fault.payload))
    if encode is not None:
        details.append(encode(fault.payload))
    return _fitted(code, _clean(fault.message), details, limit_bytes)


def is_expected(error: Exception) -> bool:
    """Whether the caller is told what happened, so that nobody need look into the log."""
    return _known(error) is not None


class Errors:
    """Answers a call with the status of what its handler raised."""

    def __init__(
        self, encoders: DetailEncoders | None = None, new_error_id: NewId = lambda: random_id("e")
    ) -> None:
        self._encoders = encoders or {}
        self._new_error_id = new_error_id

    async def answer(self, context: Context, error: Exception, method: str) -> NoReturn:
        """Ends the call: always raises `grpc.aio.AbortError`."""
        error = _only(error)
        if isinstance(error, OSError) and is_expected(error):
            log.error("disk.full", method=method, error=str(error))
        try:
            status = self._told(error, _limit_of(context)) if is_expected(error) else None
        except Exception as broken:  # an encoder or a Fault that is wrong: say so, leak nothing
            broken.__cause__ = error
            error, status = broken, None
        if status is None:
            status = self._hidden(error, method)
        await context.abort(
            _code(status.code),
            status.message,
            ((STATUS_METADATA_KEY, status.SerializeToString()),),
        )

    def _told(self, error: Exception, limit_bytes: int) -> status_pb2.Status:
        return to_status(error, encoders=self._encoders, limit_bytes=limit_bytes)

    def _hidden(self, error: Exception, method: str) -> status_pb2.Status:
        error_id = self._new_error_id()
        log.error("rpc.failed", method=method, error_id=error_id, exc_info=error)
        return _internal(error_id)


def _known(error: Exception) -> tuple[grpc.StatusCode, Fault] | None:
    match error:
        case Fault():
            return _category(error), error
        case ValidationError():
            return grpc.StatusCode.INVALID_ARGUMENT, InvalidArgument(violations_of(error))
        case DeadlineExceeded():
            fault = Fault("DEADLINE_EXCEEDED", "the call took too long; give it a longer deadline")
            return grpc.StatusCode.DEADLINE_EXCEEDED, fault
        case grpc.aio.AioRpcError() if error.code() in _DEPENDENCY_DOWN:
            fault = faults.Unavailable(
                "DEPENDENCY_DOWN", "a service behind this one does not answer"
            )
            return grpc.StatusCode.UNAVAILABLE, fault
        case OSError() if error.errno in _DISK_FULL:
            fault = faults.ResourceExhausted(
                "DISK_FULL", "a disk of this service is full, and nothing was stored"
            )
            return grpc.StatusCode.RESOURCE_EXHAUSTED, fault
        case _:
            return None


def _category(fault: Fault) -> grpc.StatusCode:
    for cls in type(fault).__mro__:
        if cls in CODES:
            return CODES[cls]
    raise TypeError(f"{type(fault).__name__} belongs to no category of services.common.faults")


def _only(error: Exception) -> Exception:
    """The one exception in a group of one: what a TaskGroup of the handler passed on."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _internal(error_id: str) -> status_pb2.Status:
    message = f"internal error {error_id}; the server's log says more under this id"
    fault = Fault("INTERNAL", message, error_id=error_id)
    return _fitted(grpc.StatusCode.INTERNAL, message, [_error_info(fault)], 0)


def _error_info(fault: Fault) -> error_details_pb2.ErrorInfo:
    metadata = {key: _clean(value) for key, value in fault.metadata.items()}
    return error_details_pb2.ErrorInfo(reason=fault.reason, domain=DOMAIN, metadata=metadata)


def _standard_details(fault: Fault) -> Iterable[Message]:
    match fault:
        case faults.InvalidArgument():
            yield error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=_clean(one.field),
                        description=_clean(one.description),
                        reason=one.reason,
                    )
                    for one in fault.violations
                ]
            )
        case faults.FailedPrecondition():
            violation = error_details_pb2.PreconditionFailure.Violation(
                type=fault.reason,
                subject=_clean(fault.metadata.get("resource", "")),
                description=_clean(fault.message),
            )
            yield error_details_pb2.PreconditionFailure(violations=[violation])
        case faults.ResourceExhausted() | faults.Unavailable() if fault.retry_after_s is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(round(fault.retry_after_s * 1000))
            yield retry
        case _:
            return


def _fitted(
    code: grpc.StatusCode, message: str, details: list[Message], limit_bytes: int
) -> status_pb2.Status:
    info, *rest = details
    left_out = 0
    while True:
        if left_out and isinstance(info, error_details_pb2.ErrorInfo):
            info.metadata["entries_left_out"] = str(left_out)
        status = status_pb2.Status(code=code.value[0], message=message)
        for detail in (info, *rest):
            status.details.add().Pack(detail)
        if not rest or status.ByteSize() + len(message) <= limit_bytes:
            return status
        left_out += _shrink(rest)


def _shrink(details: list[Message]) -> int:
    """Takes entries, or all, from the largest detail; returns how many went."""
    largest = max(details, key=lambda detail: detail.ByteSize())
    for field, value in largest.ListFields():
        if field.is_repeated and len(value) > 1:
            gone = len(value) // 2
            del value[-gone:]
            return gone
    details.remove(largest)
    return 1


def _limit_of(context: Context) -> int:
    for key, value in context.invocation_metadata() or ():
        if key == STATUS_LIMIT_METADATA_KEY and isinstance(value, str) and value.isdecimal():
            return min(int(value[:9]), _STATUS_LIMIT_MOST_BYTES)
    return _STATUS_LIMIT_BYTES


def _clean(text: str) -> str:
    """Text that protobuf accepts (no lone surrogates), cut at a length that a person reads."""
    return text.encode("utf-8", "replace").decode("utf-8")[:_TEXT_LIMIT_CHARACTERS]


_CODES_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def _code(number: int) -> grpc.StatusCode:
    return _CODES_BY_NUMBER[number]
