"""What this service needs of the outside."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from services.abtest.domain.experiment import Arm, Experiment, Failure, Prompt
from services.abtest.domain.names import ExperimentName, ModelReference
from services.abtest.domain.voting import Judgement
from services.common.names import ProjectName
from services.common.paging import Key
from services.common.request_ids import RequestKey

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class MissingAnswer:
    """An answer that is yet to be generated."""

    experiment: Experiment
    prompt_index: int
    arm: Arm
    prompt: Prompt


class ExperimentRows(Protocol):
    """The experiments, their prompts and their answers."""

    async def add(self, experiment: Experiment, prompts: Sequence[Prompt]) -> bool:
        """False if the name is taken."""
        ...

    async def find(self, name: ExperimentName) -> Experiment | None: ...

    async def lock(self, uid: str) -> Experiment | None:
        """The experiment, which no other transaction can change until this one ends."""
        ...

    async def change(self, experiment: Experiment) -> None:
        """Writes its state, ready count, error and update time."""
        ...

    async def page(
        self, project: ProjectName, after: Key | None, limit: int
    ) -> Sequence[Experiment]:
        """Newest first; `after` is the `paging_key` of the last one seen."""
        ...

    async def delete(self, name: ExperimentName) -> bool:
        """With prompts, answers and votes. False if there is none."""
        ...

    async def prompts(self, experiment: Experiment) -> tuple[Prompt, ...]: ...

    async def prompt(self, experiment: Experiment, index: int) -> Prompt: ...


class AnswerRows(Protocol):
    """What the arms said."""

    async def missing(self, skip: frozenset[str], limit: int) -> Sequence[MissingAnswer]:
        """What is yet to be generated, oldest experiment first, but for those with a uid in
        `skip`."""
        ...

    async def add(self, experiment: Experiment, prompt_index: int, arm: Arm, text: str) -> None:
        """The first text for a prompt and arm stays."""
        ...

    async def of_prompt(self, experiment: Experiment, prompt_index: int) -> dict[Arm, str]: ...

    async def ready_prompts(self, experiment: Experiment) -> frozenset[int]:
        """The prompts that both arms have answered."""
        ...


class VoteRows(Protocol):
    """One judgement for each experiment, prompt and voter."""

    async def cast(self, experiment: Experiment, judgement: Judgement) -> bool:
        """Stores it; True if it replaced an earlier one, of which the first time is kept."""
        ...

    async def judged(self, experiment: Experiment, voter: str) -> frozenset[int]:
        """The prompts that this voter has judged."""
        ...

    async def all(self, experiment: Experiment) -> Sequence[Judgement]: ...


class RequestRows(Protocol):
    """Calls that were carried out under a request_id; without one every call is a new one."""

    async def find(self, key: RequestKey, fingerprint: str) -> str | None:
        """The resource of the same call when it was carried out before, else None.

        Raises InvalidArgument if the request_id was another call's."""
        ...

    async def reserve(self, key: RequestKey, fingerprint: str) -> str | None:
        """As `find`, and from now on the id is this call's."""
        ...

    async def settle(self, key: RequestKey, resource: str) -> None: ...


class Tables(Protocol):
    """One transaction."""

    @property
    def experiments(self) -> ExperimentRows: ...
    @property
    def answers(self) -> AnswerRows: ...
    @property
    def votes(self) -> VoteRows: ...
    @property
    def requests(self) -> RequestRows: ...


class Storage(Protocol):
    """Where experiments are kept."""

    def reading(self) -> AbstractAsyncContextManager[Tables]:
        """A consistent snapshot."""
        ...

    def writing(self) -> AbstractAsyncContextManager[Tables]:
        """All that is written inside is there at its end, or, after an exception, nothing."""
        ...


class ModelDirectory(Protocol):
    """Knows which models there are."""

    async def resolve(self, model: ModelReference) -> str | None:
        """The name of the base model or the version that this stands for now; None if there is
        none. Raises DependencyDown."""
        ...


class Inference(Protocol):
    """Answers a conversation."""

    async def answer(
        self, project: ProjectName, model: str, prompt: Prompt, max_output_tokens: int
    ) -> str:
        """The model's likeliest words. Raises InferenceBusy, GenerationFailed."""
        ...


class InferenceBusy(Exception):
    """Not now: the service is down or its queue is full."""


class GenerationFailed(Exception):
    """This prompt cannot be answered by this model, now or later."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def paging_key(experiment: Experiment) -> Key:
    """The place of an experiment in a list: microseconds since 1970 of its creation, its uid."""
    return ((experiment.create_time - _EPOCH) // timedelta(microseconds=1), experiment.uid)
