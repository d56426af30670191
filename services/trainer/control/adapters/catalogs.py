"""The services that know what a job can be made of."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio
import structlog
from google.protobuf.json_format import MessageToDict
from structlog.typing import FilteringBoundLogger

from anneal.dataset.v1 import dataset_pb2
from anneal.dataset.v1 import dataset_service_pb2 as dataset_pb
from anneal.registry.v1 import model_pb2
from anneal.registry.v1 import registry_service_pb2 as registry_pb
from anneal.registry.v1.base_model_pb2 import BaseModel as BaseModelMessage
from anneal.registry.v1.base_model_pb2 import BaseModelSource as SourceMessage
from services.common.faults import InvalidArgument, Unavailable
from services.trainer.control import from_proto
from services.trainer.control.domain.estimation.architecture import (
    Architecture,
    checked_architecture,
)
from services.trainer.control.domain.job import BaseModelSource, HubSource, ManifestSource
from services.trainer.control.domain.names import (
    BaseModelName,
    DatasetVersionName,
    ModelAliasName,
    ModelVersionName,
)
from services.trainer.control.domain.ports import BaseModel, DatasetVersion, ModelVersion

if TYPE_CHECKING:  # the generated code has this class in its stubs only
    from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub
    from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub

T = TypeVar("T")

log: FilteringBoundLogger = structlog.get_logger(__name__)

_DOWN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by a service that is shutting down
}


class GrpcDatasets:
    """The dataset service's versions."""

    def __init__(self, stub: "DatasetServiceAsyncStub") -> None:
        self._stub = stub

    async def resolve(self, name: DatasetVersionName) -> DatasetVersion | None:
        request = dataset_pb.GetDatasetVersionRequest(name=str(name))
        found = await _found("dataset", self._stub.GetDatasetVersion(request))
        if found is None:
            return None
        return DatasetVersion(
            name=DatasetVersionName.parse(found.name),
            digest=found.digest,
            example_count=found.example_count,
            size_bytes=found.size_bytes,
            are_texts=found.source_format == dataset_pb2.SOURCE_FORMAT_TEXT,
            are_preferences=found.source_format == dataset_pb2.SOURCE_FORMAT_PREFERENCE,
        )


class GrpcBaseModels:
    """The registry's list of base models."""

    def __init__(self, stub: "RegistryServiceAsyncStub") -> None:
        self._stub = stub

    async def find(self, name: BaseModelName) -> BaseModel | None:
        request = registry_pb.GetBaseModelRequest(name=str(name))
        found = await _found("registry", self._stub.GetBaseModel(request))
        if found is None:
            return None
        return _base_model(found)


class GrpcModelVersions:
    """The registry's model versions."""

    def __init__(self, stub: "RegistryServiceAsyncStub") -> None:
        self._stub = stub

    async def resolve(self, name: ModelVersionName | ModelAliasName) -> ModelVersion | None:
        version = await self._pointed_at(name) if isinstance(name, ModelAliasName) else str(name)
        if version is None:
            return None
        request = registry_pb.GetModelVersionRequest(name=version)
        found = await _found("registry", self._stub.GetModelVersion(request))
        return None if found is None else _model_version(found)

    async def _pointed_at(self, name: ModelAliasName) -> str | None:
        request = registry_pb.GetModelAliasRequest(name=str(name))
        alias = await _found("registry", self._stub.GetModelAlias(request))
        return None if alias is None else alias.version


async def _found(service: str, call: Awaitable[T]) -> T | None:
    """The answer, None for NOT_FOUND. Raises Unavailable if the service is down."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        if error.code() in _DOWN:
            raise Unavailable(
                "DEPENDENCY_DOWN", f"the {service} service does not answer", service=service
            ) from error
        raise


def _base_model(message: BaseModelMessage) -> BaseModel:
    return BaseModel(
        name=BaseModelName.parse(message.name),
        digest=message.digest,
        source=_source(message.source),
        size_bytes=message.size_bytes,
        architecture=_architecture(message),
    )


def _architecture(message: BaseModelMessage) -> Architecture | None:
    """None also of one that the estimates can not be made of: its jobs need none."""
    if not message.HasField("architecture"):
        return None
    try:
        return checked_architecture(from_proto.architecture(message.architecture))
    except InvalidArgument as fault:
        log.warning(
            "base_model.architecture_unusable", base_model=message.name, reason=fault.message
        )
        return None


def _model_version(message: model_pb2.ModelVersion) -> ModelVersion:
    lineage = message.lineage
    told = MessageToDict(lineage.hyperparameters)
    return ModelVersion(
        name=ModelVersionName.parse(message.name),
        manifest_digest=message.manifest_digest,
        base_model=lineage.base_model,
        base_model_digest=lineage.base_model_digest,
        method=lineage.method,
        # The registry writes the words of enums in lower case.
        hyperparameters={
            name: value.upper() if isinstance(value, str) else value for name, value in told.items()
        },
    )


def _source(message: SourceMessage) -> BaseModelSource:
    if message.WhichOneof("source") == "hub":
        return HubSource(message.hub.repository, message.hub.revision)
    return ManifestSource(message.manifest_digest)
