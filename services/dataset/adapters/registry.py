"""The registry's list of base models."""

from typing import TYPE_CHECKING

import grpc
import grpc.aio

from anneal.registry.v1.registry_service_pb2 import GetBaseModelRequest
from services.common.faults import Unavailable
from services.dataset.domain.errors import BaseModelNotFound, RegistryUnknown
from services.dataset.domain.masks import BaseModel
from services.dataset.domain.names import BaseModelName

if TYPE_CHECKING:  # the generated code has this class in its stubs only
    from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub

_DOWN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by a service that is shutting down
}


class RegistryBaseModels:
    """Asks each time: the list may have changed."""

    def __init__(self, stub: "RegistryServiceAsyncStub") -> None:
        self._stub = stub

    async def find(self, name: BaseModelName) -> BaseModel:
        try:
            found = await self._stub.GetBaseModel(GetBaseModelRequest(name=str(name)))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise BaseModelNotFound(name) from error
            if error.code() in _DOWN:
                text = "the registry does not answer"
                raise Unavailable("DEPENDENCY_DOWN", text, service="registry") from error
            raise
        return BaseModel(name, found.digest, found.source.manifest_digest or None)


class NoRegistry:
    """Of a service that is told of none."""

    async def find(self, name: BaseModelName) -> BaseModel:
        raise RegistryUnknown
