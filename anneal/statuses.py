"""Reads `google.rpc.Status` and its details out of a failed call."""

from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from anneal.dataset.v1.dataset_pb2 import UploadRejection
from anneal.errors import (
    AnnealError,
    LineFault,
    Refusal,
    UploadRejected,
    Violation,
    error_of,
)

M = TypeVar("M", bound=Message)

REQUEST_ID = "x-request-id"


def error_from(error: grpc.RpcError, address: str, request_id: str) -> AnnealError:
    """Returns the exception for a failed call to `address` that was sent with `request_id`."""
    if not isinstance(error, grpc.Call):
        return error_of(Refusal("INTERNAL", "CLIENT_FAULT", str(error), request_id=request_id))
    code = error.code()
    request_id = _trailing(error, REQUEST_ID) or request_id
    status = _status_of(error)
    if status is None:
        return error_of(_bare_refusal(code.name, error.details() or "", address, request_id))
    refusal = _refusal(code.name, status, request_id)
    rejection = _detail(status, UploadRejection)
    return error_of(refusal) if rejection is None else _rejected(refusal, rejection)


def _status_of(call: grpc.Call) -> Status | None:
    try:
        return rpc_status.from_call(call)
    except ValueError:  # code or message of the details disagree with the call's: trust the call
        return None


def _bare_refusal(code: str, details: str, address: str, request_id: str) -> Refusal:
    """The refusal for a status without details: gRPC itself made it, not a service."""
    if code == "UNAVAILABLE":
        message = f"nothing answers at {address}"
        return Refusal(
            code, "UNREACHABLE", message, metadata={"cause": details}, request_id=request_id
        )
    if code == "DEADLINE_EXCEEDED":
        message = f"{address} did not answer in time"
        return Refusal(code, "DEADLINE_EXCEEDED", message, request_id=request_id)
    return Refusal(code, "", details, request_id=request_id)


def _refusal(code: str, status: Status, request_id: str) -> Refusal:
    info = _detail(status, ErrorInfo) or ErrorInfo()
    bad_request = _detail(status, BadRequest) or BadRequest()
    retry = _detail(status, RetryInfo)
    return Refusal(
        code,
        info.reason,
        status.message,
        [Violation(v.field, v.description, v.reason) for v in bad_request.field_violations],
        dict(info.metadata),
        request_id,
        None if retry is None else retry.retry_delay.ToTimedelta().total_seconds(),
    )


def _rejected(refusal: Refusal, rejection: UploadRejection) -> UploadRejected:
    faults = [LineFault(f.line, f.code, f.pointer, f.message) for f in rejection.faults]
    return UploadRejected(refusal, faults, rejection.fault_count, rejection.line_count)


def _detail(status: Status, kind: type[M]) -> M | None:
    message = kind()
    return message if any(detail.Unpack(message) for detail in status.details) else None


def _trailing(call: grpc.Call, key: str) -> str:
    metadata = call.trailing_metadata() or ()
    return next((str(value) for name, value in metadata if name == key), "")
