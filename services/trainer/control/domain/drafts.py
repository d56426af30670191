"""From what a caller asked for to what is to be trained: every violation at once."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from services.common.faults import InvalidArgument, Violation
from services.trainer.control.domain import automatic, starts
from services.trainer.control.domain.combinations import impossible
from services.trainer.control.domain.errors import (
    no_base_model,
    no_dataset_version,
    no_start_version,
    preferences_unlearnt,
)
from services.trainer.control.domain.estimation.reading import Examples, guessed_mean_tokens
from services.trainer.control.domain.estimation.sizes import Sizes, too_large
from services.trainer.control.domain.job import JobSpec, Start
from services.trainer.control.domain.names import (
    BaseModelName,
    DatasetVersionName,
    ModelAliasName,
    ModelName,
    ModelVersionName,
)
from services.trainer.control.domain.nodes import Offer, backend_lacking
from services.trainer.control.domain.ports import (
    BaseModel,
    BaseModelCatalog,
    DatasetCatalog,
    DatasetVersion,
    ModelVersion,
    ModelVersionCatalog,
    Offers,
)
from services.trainer.control.domain.settings import JobSettings, checked_settings

T = TypeVar("T")

Heaviest = Callable[[JobSettings], JobSettings]
"""Of the settings that are to be trained in the place of a draft's, those that need most memory."""


def _as_asked(settings: JobSettings) -> JobSettings:
    return settings


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
class Resolved:
    """What a draft asks for, with all that the services know of what it names. Without `sizes` it
    is not known how the base model is built."""

    settings: JobSettings
    base_model: BaseModel
    version: DatasetVersion
    model: ModelName
    start: ModelVersion | None
    sizes: Sizes | None

    def spec(self) -> JobSpec:
        start = self.start
        return JobSpec(
            base_model=self.base_model.name,
            base_model_digest=self.base_model.digest,
            base_model_source=self.base_model.source,
            dataset_version=self.version.name,
            dataset_digest=self.version.digest,
            model=self.model,
            settings=self.settings,
            start=Start(start.name, start.manifest_digest) if start else None,
            sizes=self.sizes,
        )


@dataclass(frozen=True)
class _Found:
    """What of a draft could be read and found. Where something is None and had to be there, there
    is a finding; no `model` means the namesake of the dataset."""

    settings: JobSettings | None
    model: ModelName | None
    base_model: BaseModel | None
    version: DatasetVersion | None
    start: ModelVersion | None

    @property
    def sizes(self) -> Sizes | None:
        model, version = self.base_model, self.version
        if model is None or model.architecture is None or version is None:
            return None
        return Sizes(model.architecture, model.size_bytes, examples_of(version))

    def with_automatic(self) -> "_Found":
        """With what the settings leave to `auto`; as it is where something was not found."""
        if self.settings is None or self.base_model is None or self.version is None:
            return self
        model, examples = self.base_model.architecture, examples_of(self.version)
        return replace(self, settings=automatic.resolved(self.settings, model, examples))

    def refused(self, offers: Sequence[Offer], heaviest: Heaviest) -> list[Violation]:
        """What of the settings neither the engine nor any of the nodes that are there could do."""
        settings = self.settings
        if settings is None:
            return []
        found = [
            *backend_lacking(settings.backend, offers),
            *impossible(
                settings,
                self.base_model.architecture if self.base_model else None,
                on_texts=self.version is not None and self.version.are_texts,
                goes_on=self.start is not None,
            ),
        ]
        if self.version is not None and self.version.are_preferences:
            found.append(preferences_unlearnt())
        if (sizes := self.sizes) is not None:
            found += too_large(sizes, heaviest(settings), offers)
        return found

    def resolved(self, findings: Findings) -> Resolved:
        """Raises InvalidArgument with all findings if there are any."""
        settings, base_model, version = self.settings, self.base_model, self.version
        if findings.violations or settings is None or base_model is None or version is None:
            raise InvalidArgument(findings.violations)
        model = self.model or version.name.namesake()
        return Resolved(settings, base_model, version, model, self.start, self.sizes)


@dataclass(frozen=True)
class Specification:
    """Turns drafts into specs with the help of the two services that know what exists, and of the
    nodes that are there."""

    datasets: DatasetCatalog
    base_models: BaseModelCatalog
    model_versions: ModelVersionCatalog
    offers: Offers

    async def of(
        self, project: str, draft: Draft, findings: Findings, heaviest: Heaviest = _as_asked
    ) -> JobSpec:
        """What can be trained here. Raises InvalidArgument with every violation, those found
        before among them, and Unavailable if a catalog does not answer."""
        found, offers = await asyncio.gather(
            self._found(project, draft, findings), self.offers.there()
        )
        found = found.with_automatic()
        findings.violations += found.refused(offers, heaviest)
        return found.resolved(findings).spec()

    async def resolved(self, project: str, draft: Draft, findings: Findings) -> Resolved:
        """What can be trained, whether or not a node is there for it. What the settings leave to
        `auto` is still open. Raises as `of`."""
        return (await self._found(project, draft, findings)).resolved(findings)

    async def _found(self, project: str, draft: Draft, findings: Findings) -> _Found:
        settings = findings.of(lambda: checked_settings(draft.settings))
        model = findings.of(lambda: _model(draft, project))
        base_model, version, start = await asyncio.gather(
            self._base_model(draft, findings),
            self._version(draft, project, findings),
            self._start(draft, project, findings),
        )
        if start is not None and base_model is not None and settings is not None:
            findings.violations += starts.misfits(start, base_model, settings.method)
        return _Found(settings, model, base_model, version, start)

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


def examples_of(version: DatasetVersion, mean_tokens: float = 0.0) -> Examples:
    """`mean_tokens` 0 is guessed."""
    guessed = guessed_mean_tokens(version.size_bytes, version.example_count)
    return Examples(version.example_count, mean_tokens or guessed, version.are_texts)


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
