"""RegistryService as the router's catalog of models."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar, assert_never

import grpc

from anneal.registry.v1 import base_model_pb2, model_pb2, registry_service_pb2
from services.common.faults import Unavailable
from services.inference.domain.errors import BaseModelChanged, ModelNotFound
from services.inference.domain.models import (
    AliasName,
    BaseModelName,
    HubBase,
    LocalBase,
    ModelName,
    ServedModel,
    VersionName,
)

if TYPE_CHECKING:
    from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub

T = TypeVar("T")


class RegistryCatalog:
    """Asks the registry each time: an alias may have moved since."""

    def __init__(self, stub: "RegistryServiceAsyncStub") -> None:
        self._stub = stub

    async def find(self, name: ModelName) -> ServedModel:
        """Raises ModelNotFound, BaseModelChanged and Unavailable."""
        match name:
            case BaseModelName():
                return ServedModel(str(name), _base(await self._base_model(str(name), asked=name)))
            case VersionName():
                return await self._version(str(name), asked=name)
            case AliasName():
                request = registry_service_pb2.GetModelAliasRequest(name=str(name))
                alias = await _answer(self._stub.GetModelAlias(request), name)
                return await self._version(alias.version, asked=name)
            case _:
                assert_never(name)

    async def _version(self, version_name: str, asked: ModelName) -> ServedModel:
        request = registry_service_pb2.GetModelVersionRequest(name=version_name)
        version = await _answer(self._stub.GetModelVersion(request), asked)
        base = await self._base_model(version.lineage.base_model, asked)
        return ServedModel(version.name, _learnt_from(version, base), version.manifest_digest)

    async def _base_model(self, name: str, asked: ModelName) -> base_model_pb2.BaseModel:
        request = registry_service_pb2.GetBaseModelRequest(name=name)
        return await _answer(self._stub.GetBaseModel(request), asked)


def _learnt_from(
    version: model_pb2.ModelVersion, base: base_model_pb2.BaseModel
) -> LocalBase | HubBase:
    """The base that the version stands on: that of its lineage, even when its name has come to
    stand for another. Of hub models there is only the revision on the list.

    Raises BaseModelChanged.
    """
    digest = version.lineage.base_model_digest
    if digest == base.digest:
        return _base(base)
    if base.source.HasField("hub"):
        raise BaseModelChanged(version.name, base.name)
    return LocalBase(digest)


def _base(model: base_model_pb2.BaseModel) -> LocalBase | HubBase:
    if model.source.HasField("hub"):
        return HubBase(model.source.hub.repository, model.source.hub.revision)
    return LocalBase(model.source.manifest_digest)


async def _answer(call: Awaitable[T], asked: ModelName) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            raise ModelNotFound(str(asked)) from error
        raise Unavailable(
            "DEPENDENCY_DOWN", f"the registry does not answer: {error.details()}"
        ) from error
