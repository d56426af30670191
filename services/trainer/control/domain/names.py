"""The resource names that the trainer reads and gives."""

from dataclasses import dataclass

from services.common.names import ResourceName


@dataclass(frozen=True)
class TuningJobName(ResourceName):
    pattern = "projects/{project}/tuningJobs/{tuning_job}"
    project: str
    tuning_job: str


@dataclass(frozen=True)
class TuningSweepName(ResourceName):
    pattern = "projects/{project}/tuningSweeps/{tuning_sweep}"
    project: str
    tuning_sweep: str


@dataclass(frozen=True)
class QuotaName(ResourceName):
    pattern = "projects/{project}/quota"
    project: str


@dataclass(frozen=True)
class NodeName(ResourceName):
    pattern = "nodes/{node}"
    node: str


@dataclass(frozen=True)
class ModelName(ResourceName):
    pattern = "projects/{project}/models/{model}"
    project: str
    model: str

    def version(self, version_id: str) -> str:
        return f"{self}/versions/{version_id}"


@dataclass(frozen=True)
class ModelVersionName(ResourceName):
    pattern = "projects/{project}/models/{model}/versions/{version}"
    project: str
    model: str
    version: str


@dataclass(frozen=True)
class ModelAliasName(ResourceName):
    pattern = "projects/{project}/models/{model}/aliases/{alias}"
    project: str
    model: str
    alias: str


@dataclass(frozen=True)
class DatasetVersionName(ResourceName):
    pattern = "projects/{project}/datasets/{dataset}/versions/{version}"
    project: str
    dataset: str
    version: str

    def namesake(self) -> ModelName:
        """The model that is named like the dataset."""
        return ModelName(self.project, self.dataset)


@dataclass(frozen=True)
class BaseModelName(ResourceName):
    pattern = "baseModels/{base_model}"
    base_model: str
