"""The use cases around an experiment: create, get, list, delete."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.abtest.domain.drafts import CheckedDraft, DraftCheck, ExperimentDraft
from services.abtest.domain.errors import ExperimentExists, ExperimentNotFound
from services.abtest.domain.experiment import Experiment, Prompt, State
from services.abtest.domain.names import ExperimentName, ModelReference
from services.abtest.domain.ports import (
    ModelDirectory,
    Storage,
    Tables,
    paging_key,
)
from services.common.clock import Clock
from services.common.faults import Violation
from services.common.ids import NewId
from services.common.names import ProjectName
from services.common.paging import Key, Page
from services.common.request_ids import RequestKey

CREATE = "CreateExperiment"


@dataclass(frozen=True)
class ExperimentWithPrompts:
    """An experiment, whole."""

    experiment: Experiment
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class _Arms:
    baseline: str
    candidate: str


class Experiments:
    """Keeps experiments. Answers and votes come from elsewhere."""

    def __init__(
        self,
        storage: Storage,
        models: ModelDirectory,
        clock: Clock,
        new_id: NewId,
        new_uid: NewId,
        new_secret: Callable[[], bytes],
    ) -> None:
        self._storage = storage
        self._models = models
        self._clock = clock
        self._new_id = new_id
        self._new_uid = new_uid
        self._new_secret = new_secret

    async def create(self, draft: ExperimentDraft) -> ExperimentWithPrompts:
        """Raises InvalidArgument with all violations, ExperimentExists, DependencyDown.

        A repetition under the same request_id gets the experiment as it now is, whatever has
        become of the models since.
        """
        check = DraftCheck(draft)
        repeated = None if check.violations else await self._repeated(draft)
        if repeated is not None:
            return repeated
        checked, resolved = await self._resolved(check)
        made = ExperimentWithPrompts(self._experiment(checked, resolved), checked.prompts)
        if draft.validate_only:
            await self._require_free(made.experiment.name)
            return made
        return await self._add(made, draft)

    async def get(self, name: ExperimentName) -> ExperimentWithPrompts:
        """Raises ExperimentNotFound."""
        async with self._storage.reading() as tables:
            return await _whole(tables, name)

    async def page(self, project: ProjectName, after: Key | None, size: int) -> Page[Experiment]:
        """The experiments of a project, newest first."""
        async with self._storage.reading() as tables:
            rows = await tables.experiments.page(project, after, size + 1)
        return Page.cut(rows, size, paging_key)

    async def delete(self, name: ExperimentName) -> None:
        """With its answers and votes. Raises ExperimentNotFound."""
        async with self._storage.writing() as tables:
            if not await tables.experiments.delete(name):
                raise ExperimentNotFound(name)

    async def _repeated(self, draft: ExperimentDraft) -> ExperimentWithPrompts | None:
        async with self._storage.reading() as tables:
            earlier = await tables.requests.find(_request_key(draft), draft.fingerprint)
            return await _whole(tables, ExperimentName.parse(earlier)) if earlier else None

    async def _resolved(self, check: DraftCheck) -> tuple[CheckedDraft, _Arms]:
        baseline, candidate = await asyncio.gather(
            self._resolve(check, check.baseline, "experiment.baseline_model"),
            self._resolve(check, check.candidate, "experiment.candidate_model"),
        )
        return check.result(), _Arms(baseline, candidate)

    async def _resolve(self, check: DraftCheck, model: ModelReference | None, field: str) -> str:
        """The model's own name; one that does not exist is added to the draft's violations."""
        found = None if model is None else await self._models.resolve(model)
        if model is not None and found is None:
            check.violations.append(Violation(field, f"{model} does not exist", "MODEL_NOT_FOUND"))
        return found or ""

    def _experiment(self, draft: CheckedDraft, arms: _Arms) -> Experiment:
        now = self._clock.now()
        return Experiment(
            name=ExperimentName.of(draft.project, draft.experiment_id or self._new_id()),
            uid=self._new_uid(),
            state=State.GENERATING,
            baseline=arms.baseline,
            candidate=arms.candidate,
            max_output_tokens=draft.max_output_tokens,
            prompt_count=len(draft.prompts),
            ready_count=0,
            secret=self._new_secret(),
            error=None,
            create_time=now,
            update_time=now,
        )

    async def _require_free(self, name: ExperimentName) -> None:
        async with self._storage.reading() as tables:
            if await tables.experiments.find(name) is not None:
                raise ExperimentExists(name)

    async def _add(
        self, made: ExperimentWithPrompts, draft: ExperimentDraft
    ) -> ExperimentWithPrompts:
        name, key = made.experiment.name, _request_key(draft)
        async with self._storage.writing() as tables:
            earlier = await tables.requests.reserve(key, draft.fingerprint)
            if earlier is not None:
                return await _whole(tables, ExperimentName.parse(earlier))
            if not await tables.experiments.add(made.experiment, made.prompts):
                raise ExperimentExists(name)
            await tables.requests.settle(key, str(name))
        return made


def _request_key(draft: ExperimentDraft) -> RequestKey:
    project = ProjectName.parse(draft.parent, "parent").project
    return RequestKey(project, CREATE, draft.request_id)


async def _whole(tables: Tables, name: ExperimentName) -> ExperimentWithPrompts:
    experiment = await tables.experiments.find(name)
    if experiment is None:
        raise ExperimentNotFound(name)
    return ExperimentWithPrompts(experiment, await tables.experiments.prompts(experiment))
