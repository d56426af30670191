"""Models, their versions with all of their lineage, and aliases."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from services.common.etags import etag
from services.common.manifest import JSON, FileEntry
from services.registry.domain.names import ModelAliasName, ModelName, ModelVersionName


@dataclass(frozen=True)
class Model:
    """A series of versions. `update_time` is when the last one was registered."""

    name: ModelName
    uid: str
    latest_version: ModelVersionName
    version_count: int
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True)
class Lineage:
    """Where a version comes from: resource names, the digests behind them, and how it was made.
    `hyperparameters` holds every one, defaults resolved, with the seed; `start_version` is the
    version that the training went on from, if any."""

    tuning_job: str
    dataset_version: str
    dataset_digest: str
    base_model: str
    base_model_digest: str
    method: str
    hyperparameters: Mapping[str, JSON]
    code_version: str
    start_version: str = ""


@dataclass(frozen=True)
class FinishedJob:
    """What a tuning job that succeeded has to say."""

    model: ModelName
    manifest_digest: str
    lineage: Lineage
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class ModelVersion:
    """What one tuning job made. Only `aliases`, the ones that point here, ever change."""

    name: ModelVersionName
    uid: str
    ordinal: int
    manifest_digest: str
    artifacts: tuple[FileEntry, ...]
    lineage: Lineage
    metrics: Mapping[str, float]
    create_time: datetime
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelAlias:
    """A movable name for a version. `move` is the id of the last move."""

    name: ModelAliasName
    version: ModelVersionName
    move: str
    update_time: datetime

    @property
    def etag(self) -> str:
        return etag(self.move)
