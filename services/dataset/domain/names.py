"""The names of datasets and of their versions."""

from dataclasses import dataclass

from services.common.names import ProjectName, ResourceName

LATEST = "latest"
"""The version id that stands for the version uploaded last."""


@dataclass(frozen=True)
class BaseModelName(ResourceName):
    """`baseModels/tiny-base`, of the registry."""

    pattern = "baseModels/{base_model}"
    base_model: str


@dataclass(frozen=True)
class DatasetName(ResourceName):
    """`projects/default/datasets/support`."""

    pattern = "projects/{project}/datasets/{dataset}"
    project: str
    dataset: str

    def version(self, version: str) -> "VersionName":
        return VersionName(self.project, self.dataset, version)

    @property
    def parent(self) -> ProjectName:
        return ProjectName(self.project)


@dataclass(frozen=True)
class VersionName(ResourceName):
    """`projects/default/datasets/support/versions/v-0123456789abcdef`."""

    pattern = "projects/{project}/datasets/{dataset}/versions/{version}"
    project: str
    dataset: str
    version: str

    @property
    def parent(self) -> DatasetName:
        return DatasetName(self.project, self.dataset)
