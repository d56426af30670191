"""RegistryService as the directory of models."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar, assert_never

import grpc

from anneal.registry.v1 import registry_service_pb2 as pb
from services.abtest.domain.errors import DependencyDown
from services.abtest.domain.names import (
    BaseModelName,
    ModelAliasName,
    ModelReference,
    ModelVersionName,
)

if TYPE_CHECKING:
    from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub

T = TypeVar("T")

_DOWN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by a service that is shutting down
}


class RegistryModels:
    """ModelDirectory over the registry's RPCs."""

    def __init__(self, stub: "RegistryServiceAsyncStub") -> None:
        self._stub = stub

    async def resolve(self, model: ModelReference) -> str | None:
        match model:
            case BaseModelName():
                request = pb.GetBaseModelRequest(name=str(model))
                base = await _found(self._stub.GetBaseModel(request))
                return base and base.name
            case ModelVersionName():
                return await self._version(str(model))
            case ModelAliasName():
                request = pb.GetModelAliasRequest(name=str(model))
                alias = await _found(self._stub.GetModelAlias(request))
                return alias and await self._version(alias.version)
            case _:
                assert_never(model)

    async def _version(self, name: str) -> str | None:
        version = await _found(self._stub.GetModelVersion(pb.GetModelVersionRequest(name=name)))
        return version and version.name


async def _found(call: Awaitable[T]) -> T | None:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        if error.code() in _DOWN:
            raise DependencyDown("the registry") from error
        raise
