"""From what a caller asked for to what is to be trained: every violation at once."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from services.common.faults import InvalidArgument, Violation
from services.trainer.control.domain import starts
from services.trainer.control.domain.errors import (
    no_base_model,
    no_dataset_version,
    no_start_version,
)
from services.trainer.control.domain.job import JobSpec, Start
from services.trainer.control.domain.names import (
    BaseModelName,
    DatasetVersionName,
    ModelAliasName,
    ModelName,
    ModelVersionName,
)
from services.trainer.control.domain.ports import (
    BaseModel,
    BaseModelCatalog,
    DatasetCatalog,
    DatasetVersion,
    ModelVersion,
    ModelVersionCatalog,
)
from services.trainer.control.domain.settings import checked_settings

T = TypeVar("T")


@dataclass(frozen=True)
class Draft:
    """A job as asked for, unchecked. An empty `model` means the namesake of the dataset, an empty
    `start_version` that no earlier one is gone on from."""

    base_model: str
    dataset_version: str
    model: str
    settings: dict[str, object]
    start_version: str = ""


class Findings:
    """Collects what is wrong, instead of ending at the first fault."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def of(self, check: Callable[[], T]) -> T | None:
        """What the check gives, or None if it found something."""
        try:
            return check()
        except InvalidArgument as fault:
            self.violations += fault.violations
            return None


@dataclass(frozen=True)
class Specification:
    """Turns drafts into specs with the help of the two services that know what exists."""

    datasets: DatasetCatalog
    base_models: BaseModelCatalog
    model_versions: ModelVersionCatalog

    async def of(self, project: str, draft: Draft, findings: Findings) -> JobSpec:
        """Raises InvalidArgument with every violation, those found before among them, and
        Unavailable if a catalog does not answer."""
        settings = findings.of(lambda: checked_settings(draft.settings))
        asked_model = findings.of(lambda: _model(draft, project))
        base_model, version, start = await asyncio.gather(
            self._base_model(draft, findings),
            self._version(draft, project, findings),
            self._start(draft, project, findings),
        )
        if start is not None and base_model is not None and settings is not None:
            findings.violations += starts.misfits(start, base_model, settings.method)
        if findings.violations or settings is None or base_model is None or version is None:
            raise InvalidArgument(findings.violations)
        return JobSpec(
            base_model=base_model.name,
            base_model_digest=base_model.digest,
            base_model_source=base_model.source,
            dataset_version=version.name,
            dataset_digest=version.digest,
            model=asked_model or version.name.namesake(),
            settings=settings,
            start=Start(start.name, start.manifest_digest) if start else None,
        )

    async def _base_model(self, draft: Draft, findings: Findings) -> BaseModel | None:
        name = findings.of(lambda: BaseModelName.parse(draft.base_model, "tuning_job.base_model"))
        if name is None:
            return None
        found = await self.base_models.find(name)
        if found is None:
            findings.violations.append(no_base_model(name))
        return found

    async def _version(
        self, draft: Draft, project: str, findings: Findings
    ) -> DatasetVersion | None:
        name = findings.of(lambda: _version_name(draft, project))
        if name is None:
            return None
        found = await self.datasets.resolve(name)
        if found is None:
            findings.violations.append(no_dataset_version(name))
        return found

    async def _start(self, draft: Draft, project: str, findings: Findings) -> ModelVersion | None:
        name = findings.of(lambda: _start_name(draft, project))
        if name is None:
            return None
        found = await self.model_versions.resolve(name)
        if found is None:
            findings.violations.append(no_start_version(name))
        return found


def _version_name(draft: Draft, project: str) -> DatasetVersionName:
    field = "tuning_job.dataset_version"
    name = DatasetVersionName.parse(draft.dataset_version, field)
    _require_project(name.project, project, field)
    return name


def _model(draft: Draft, project: str) -> ModelName | None:
    if not draft.model:
        return None
    field = "tuning_job.model"
    name = ModelName.parse(draft.model, field)
    _require_project(name.project, project, field)
    return name


def _start_name(draft: Draft, project: str) -> ModelVersionName | ModelAliasName | None:
    text = draft.start_version
    if not text:
        return None
    kind = ModelAliasName if "/aliases/" in text else ModelVersionName
    name = kind.parse(text, starts.FIELD)
    _require_project(name.project, project, starts.FIELD)
    return name


def _require_project(given: str, project: str, field: str) -> None:
    if given != project:
        raise InvalidArgument.of(
            field, f"belongs to another project; the job is of {project}", "OTHER_PROJECT"
        )
