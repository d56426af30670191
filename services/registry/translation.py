"""Proto ⇄ domain."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import datetime
from typing import TypeVar

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from anneal.registry.v1 import base_model_pb2, model_pb2, registry_service_pb2
from services.common.faults import InvalidArgument, Violation
from services.common.manifest import JSON
from services.common.request_ids import RequestKey, fingerprint, require_uuid4
from services.registry.domain.architecture import ModelArchitecture
from services.registry.domain.base_models import BaseModel, HubRevision
from services.registry.domain.catalog import AliasMove
from services.registry.domain.models import Lineage, Model, ModelAlias, ModelVersion
from services.registry.domain.names import ModelAliasName, ModelVersionName

T = TypeVar("T")

_EXACT_IN_A_DOUBLE = 2**53
_MASK = frozenset({"version", "*"})


def alias_move(request: registry_service_pb2.UpdateModelAliasRequest) -> AliasMove:
    """Raises InvalidArgument with all violations."""
    asked, violations = request.model_alias, list(_mask_violations(request.update_mask.paths))

    def taken(parse: Callable[[], T]) -> T | None:
        try:
            return parse()
        except InvalidArgument as fault:
            violations.extend(fault.violations)
            return None

    alias = taken(lambda: ModelAliasName.parse(asked.name, "model_alias.name"))
    version = taken(lambda: ModelVersionName.parse(asked.version, "model_alias.version"))
    if alias and alias.is_reserved:
        description = f"{alias.alias} always stands for a version; choose another word"
        violations.append(Violation("model_alias.name", description, "ALIAS_RESERVED"))
    if request.request_id:
        taken(lambda: require_uuid4(request.request_id))
    if alias and version and alias.of_model() != version.of_model():
        description = f"{version} is no version of {alias.of_model()}"
        violations.append(Violation("model_alias.version", description, "OTHER_MODEL"))
    if violations or alias is None or version is None:
        raise InvalidArgument(violations)
    return AliasMove(
        alias=alias,
        version=version,
        etag=asked.etag,
        allow_missing=request.allow_missing,
        request=RequestKey(alias.project, "UpdateModelAlias", request.request_id),
        fingerprint=fingerprint(request.SerializeToString(deterministic=True)),
    )


def _mask_violations(paths: Iterable[str]) -> Iterable[Violation]:
    for path in paths:
        if path not in _MASK:
            description = f"{path[:100]!r} cannot be updated; allowed are version and *"
            yield Violation("update_mask", description, "UNKNOWN_PATH")


def base_model_message(model: BaseModel) -> base_model_pb2.BaseModel:
    message = base_model_pb2.BaseModel(name=str(model.name), digest=model.digest)
    if isinstance(model.source, HubRevision):
        message.source.hub.repository = model.source.repository
        message.source.hub.revision = model.source.revision
    else:
        message.source.manifest_digest = model.source.manifest_digest
        message.size_bytes = model.source.size_bytes
    if model.architecture is not None:
        message.architecture.CopyFrom(_architecture(model.architecture))
    return message


def _architecture(architecture: ModelArchitecture) -> base_model_pb2.ModelArchitecture:
    return base_model_pb2.ModelArchitecture(**asdict(architecture))


def model_message(model: Model) -> model_pb2.Model:
    return model_pb2.Model(
        name=str(model.name),
        uid=model.uid,
        latest_version=str(model.latest_version),
        version_count=model.version_count,
        create_time=_timestamp(model.create_time),
        update_time=_timestamp(model.update_time),
    )


def version_message(version: ModelVersion) -> model_pb2.ModelVersion:
    return model_pb2.ModelVersion(
        name=str(version.name),
        uid=version.uid,
        ordinal=version.ordinal,
        manifest_digest=version.manifest_digest,
        artifacts=[
            model_pb2.Artifact(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)
            for file in version.artifacts
        ],
        lineage=_lineage(version.lineage),
        metrics=version.metrics,
        aliases=version.aliases,
        create_time=_timestamp(version.create_time),
    )


def alias_message(alias: ModelAlias) -> model_pb2.ModelAlias:
    return model_pb2.ModelAlias(
        name=str(alias.name),
        version=str(alias.version),
        etag=alias.etag,
        update_time=_timestamp(alias.update_time),
    )


def _lineage(lineage: Lineage) -> model_pb2.Lineage:
    hyperparameters = Struct()
    hyperparameters.update({key: _in_struct(v) for key, v in lineage.hyperparameters.items()})
    return model_pb2.Lineage(
        tuning_job=lineage.tuning_job,
        dataset_version=lineage.dataset_version,
        dataset_digest=lineage.dataset_digest,
        base_model=lineage.base_model,
        base_model_digest=lineage.base_model_digest,
        method=lineage.method,
        hyperparameters=hyperparameters,
        code_version=lineage.code_version,
        start_version=lineage.start_version,
    )


def _in_struct(value: JSON) -> JSON:
    """A Struct holds doubles only; a larger integer (a seed) goes as text."""
    if isinstance(value, int) and abs(value) > _EXACT_IN_A_DOUBLE:
        return str(value)
    return value


def _timestamp(time: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
