"""Which model answers: a base, a version on top of it, or an alias for one."""

from dataclasses import dataclass

from services.common.faults import InvalidArgument
from services.common.names import ResourceName, require_id


@dataclass(frozen=True)
class BaseModelName(ResourceName):
    pattern = "baseModels/{base_model}"
    base_model: str


@dataclass(frozen=True)
class VersionName(ResourceName):
    pattern = "projects/{project}/models/{model}/versions/{version}"
    project: str
    model: str
    version: str


@dataclass(frozen=True)
class AliasName(ResourceName):
    pattern = "projects/{project}/models/{model}/aliases/{alias}"
    project: str
    model: str
    alias: str


ModelName = BaseModelName | VersionName | AliasName


@dataclass(frozen=True)
class LocalBase:
    """A base model whose files are blobs, listed by a manifest."""

    manifest_digest: str


@dataclass(frozen=True)
class HubBase:
    """A base model in a hub's repository at one revision."""

    repository: str
    revision: str


@dataclass(frozen=True)
class ServedModel:
    """A model that can answer: its resolved name, its base, and a version's artifacts.

    `artifacts_digest` is that of their manifest; a base has none.
    """

    name: str
    base: LocalBase | HubBase
    artifacts_digest: str | None = None


def parse_model_name(text: str, project: str, field: str = "model") -> ModelName:
    """Raises InvalidArgument if it is no model's name, or one of another project."""
    kind = BaseModelName if text.startswith("baseModels/") else _kind_in_project(text)
    name = kind.parse(text, field)
    if not isinstance(name, BaseModelName) and name.project != project:
        description = f"belongs to another project than {require_id(project, field='parent')}"
        raise InvalidArgument.of(field, description, "OTHER_PROJECT")
    return name


def _kind_in_project(text: str) -> type[VersionName] | type[AliasName]:
    return AliasName if "/aliases/" in text else VersionName
