"""What a caller asks for when they create an experiment, and what is wrong with it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from services.abtest.domain.experiment import Prompt, Role, Turn
from services.abtest.domain.names import (
    BaseModelName,
    ModelAliasName,
    ModelReference,
    ModelVersionName,
)
from services.common.faults import InvalidArgument, Violation
from services.common.names import ProjectName, require_id
from services.common.request_ids import require_uuid4

T = TypeVar("T")

MAX_PROMPTS = 1_000
MAX_TURNS = 64
MAX_OUTPUT_TOKENS = 4_096
DEFAULT_OUTPUT_TOKENS = 256


@dataclass(frozen=True)
class DraftTurn:
    """A turn as sent; `role` is None when it is none that we know."""

    role: Role | None
    content: str


@dataclass(frozen=True)
class ExperimentDraft:
    """A CreateExperimentRequest, nothing of it checked yet. Fields that are 0 or empty take their
    defaults."""

    parent: str
    experiment_id: str
    baseline_model: str
    candidate_model: str
    prompts: Sequence[Sequence[DraftTurn]]
    max_output_tokens: int
    request_id: str
    fingerprint: str
    validate_only: bool


@dataclass(frozen=True)
class CheckedDraft:
    """A draft without a fault in itself; its models may still not exist."""

    project: ProjectName
    experiment_id: str
    baseline: ModelReference
    candidate: ModelReference
    prompts: tuple[Prompt, ...]
    max_output_tokens: int


class DraftCheck:
    """Everything that is wrong with a draft, and what could be understood of it."""

    def __init__(self, draft: ExperimentDraft) -> None:
        self.violations: list[Violation] = []
        self._draft = draft
        self._project = self._take(lambda: ProjectName.parse(draft.parent, "parent"))
        if draft.experiment_id:
            self._take(lambda: require_id(draft.experiment_id, field="experiment_id"))
        self.baseline = self._model(draft.baseline_model, "experiment.baseline_model")
        self.candidate = self._model(draft.candidate_model, "experiment.candidate_model")
        if draft.request_id:
            self._take(lambda: require_uuid4(draft.request_id))
        self.violations.extend(_prompts_violations(draft.prompts))
        self.violations.extend(_tokens_violations(draft.max_output_tokens))

    def result(self) -> CheckedDraft:
        """Raises InvalidArgument with all violations, those added from outside among them."""
        if self.violations or not (self._project and self.baseline and self.candidate):
            raise InvalidArgument(self.violations)
        return CheckedDraft(
            project=self._project,
            experiment_id=self._draft.experiment_id,
            baseline=self.baseline,
            candidate=self.candidate,
            prompts=tuple(_prompt(turns) for turns in self._draft.prompts),
            max_output_tokens=self._draft.max_output_tokens or DEFAULT_OUTPUT_TOKENS,
        )

    def _take(self, parse: Callable[[], T]) -> T | None:
        try:
            return parse()
        except InvalidArgument as fault:
            self.violations.extend(fault.violations)
            return None

    def _model(self, text: str, field: str) -> ModelReference | None:
        model = self._take(lambda: parse_model(text, field))
        if model is None or isinstance(model, BaseModelName) or self._project is None:
            return model
        if model.project != self._project.project:
            self.violations.append(
                Violation(field, f"{text} is not of {self._project}", "OTHER_PROJECT")
            )
            return None
        return model


def parse_model(text: str, field: str) -> ModelReference:
    """A base model, a version or an alias. Raises InvalidArgument naming `field`."""
    if not text:
        raise InvalidArgument.of(field, "is required", "REQUIRED")
    if text.startswith("baseModels/"):
        return BaseModelName.parse(text, field)
    if "/aliases/" in text:
        return ModelAliasName.parse(text, field)
    return ModelVersionName.parse(text, field)


def _tokens_violations(tokens: int) -> Iterator[Violation]:
    if not 0 <= tokens <= MAX_OUTPUT_TOKENS:
        yield Violation(
            "experiment.max_output_tokens",
            f"must be 1 to {MAX_OUTPUT_TOKENS:,}, or 0 for {DEFAULT_OUTPUT_TOKENS}",
            "OUT_OF_RANGE",
        )


def _prompts_violations(prompts: Sequence[Sequence[DraftTurn]]) -> Iterator[Violation]:
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        yield Violation(
            "experiment.prompts", f"must be 1 to {MAX_PROMPTS:,} prompts", "OUT_OF_RANGE"
        )
        return
    for index, turns in enumerate(prompts):
        yield from _turns_violations(turns, f"experiment.prompts.{index}.messages")


def _turns_violations(turns: Sequence[DraftTurn], field: str) -> Iterator[Violation]:
    if not 1 <= len(turns) <= MAX_TURNS:
        yield Violation(field, f"must be 1 to {MAX_TURNS} turns", "OUT_OF_RANGE")
        return
    for index, turn in enumerate(turns):
        if not turn.content:
            yield Violation(f"{field}.{index}.content", "must not be empty", "EMPTY")
        if turn.role is None:
            yield Violation(f"{field}.{index}.role", "must be a role", "UNKNOWN_ROLE")
        if turn.role is Role.SYSTEM and index > 0:
            yield Violation(
                f"{field}.{index}.role", "only the first turn may be the system's", "MISPLACED_ROLE"
            )
    if turns[-1].role not in (Role.USER, None):
        yield Violation(field, "must end with a user's turn", "NO_USER_TURN")


def _prompt(turns: Sequence[DraftTurn]) -> Prompt:
    return tuple(Turn(turn.role, turn.content) for turn in turns if turn.role is not None)
