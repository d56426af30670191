"""What a caller reads from a failed call."""

from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Refusal:
    code: str
    status: Status

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> "Refusal":
        metadata: dict[str, Any] = dict(error.trailing_metadata())
        status = Status.FromString(metadata["grpc-status-details-bin"])
        return cls(error.code().name, status)

    @property
    def reason(self) -> str:
        return self.detail(ErrorInfo).reason

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.detail(ErrorInfo).metadata)

    @property
    def violations(self) -> list[BadRequest.FieldViolation]:
        return list(self.detail(BadRequest).field_violations)

    @property
    def reason_of(self) -> dict[str, str]:
        """The reason of each field that was refused."""
        return {violation.field: violation.reason for violation in self.violations}

    def detail(self, kind: type[M]) -> M:
        """The detail of that kind, empty if there is none."""
        found = kind()
        for detail in self.status.details:
            detail.Unpack(found)
        return found
