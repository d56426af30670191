"""The names of this service's resources."""

import re
from dataclasses import dataclass

from services.common.names import ProjectName, ResourceName

LATEST = "latest"

# Where `model@word` is written, these words stand for a version already.
_VERSION_WORD = re.compile(rf"{LATEST}|v-[0-9a-f]{{16}}")


@dataclass(frozen=True)
class BaseModelName(ResourceName):
    """A base model. It belongs to no project."""

    pattern = "baseModels/{base_model}"
    base_model: str


@dataclass(frozen=True)
class ModelName(ResourceName):
    """A series of versions."""

    pattern = "projects/{project}/models/{model}"
    project: str
    model: str

    @classmethod
    def of(cls, project: ProjectName, model: str) -> "ModelName":
        return cls(project.project, model)

    def version(self, version: str) -> "ModelVersionName":
        return ModelVersionName(self.project, self.model, version)

    def alias(self, alias: str) -> "ModelAliasName":
        return ModelAliasName(self.project, self.model, alias)


@dataclass(frozen=True)
class ModelVersionName(ResourceName):
    """A version; `latest` stands for the one registered last."""

    pattern = "projects/{project}/models/{model}/versions/{version}"
    project: str
    model: str
    version: str

    def of_model(self) -> ModelName:
        return ModelName(self.project, self.model)

    def card(self) -> "ModelCardName":
        return ModelCardName(self.project, self.model, self.version)


@dataclass(frozen=True)
class ModelCardName(ResourceName):
    """What a reader should know of a version."""

    pattern = "projects/{project}/models/{model}/versions/{version}/card"
    project: str
    model: str
    version: str

    def of_version(self) -> ModelVersionName:
        return ModelVersionName(self.project, self.model, self.version)


@dataclass(frozen=True)
class ModelAliasName(ResourceName):
    """A movable name for a version."""

    pattern = "projects/{project}/models/{model}/aliases/{alias}"
    project: str
    model: str
    alias: str

    @property
    def is_reserved(self) -> bool:
        """Whether it could be taken for a version's name."""
        return _VERSION_WORD.fullmatch(self.alias) is not None

    def of_model(self) -> ModelName:
        return ModelName(self.project, self.model)
