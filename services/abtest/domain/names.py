"""The names of this service's resources, and of those it refers to."""

from dataclasses import dataclass

from services.common.names import ProjectName, ResourceName


@dataclass(frozen=True)
class ExperimentName(ResourceName):
    """An experiment."""

    pattern = "projects/{project}/experiments/{experiment}"
    project: str
    experiment: str

    @classmethod
    def of(cls, project: ProjectName, experiment: str) -> "ExperimentName":
        return cls(project.project, experiment)

    def pair(self, pair: str) -> "PairName":
        return PairName(self.project, self.experiment, pair)

    def report(self) -> "ReportName":
        return ReportName(self.project, self.experiment)


@dataclass(frozen=True)
class PairName(ResourceName):
    """Two answers that one voter is to judge."""

    pattern = "projects/{project}/experiments/{experiment}/pairs/{pair}"
    project: str
    experiment: str
    pair: str

    def in_experiment(self) -> ExperimentName:
        return ExperimentName(self.project, self.experiment)


@dataclass(frozen=True)
class ReportName(ResourceName):
    """What the votes of an experiment say."""

    pattern = "projects/{project}/experiments/{experiment}/report"
    project: str
    experiment: str

    def of_experiment(self) -> ExperimentName:
        return ExperimentName(self.project, self.experiment)


@dataclass(frozen=True)
class BaseModelName(ResourceName):
    """A base model of the registry."""

    pattern = "baseModels/{base_model}"
    base_model: str


@dataclass(frozen=True)
class ModelVersionName(ResourceName):
    """A version of a model of the registry; `latest` stands for the newest."""

    pattern = "projects/{project}/models/{model}/versions/{version}"
    project: str
    model: str
    version: str


@dataclass(frozen=True)
class ModelAliasName(ResourceName):
    """A movable name for a version."""

    pattern = "projects/{project}/models/{model}/aliases/{alias}"
    project: str
    model: str
    alias: str


ModelReference = BaseModelName | ModelVersionName | ModelAliasName
"""What an arm may be."""
