"""From what a caller asked a sweep for to what it looks for: every violation at once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

from pydantic import Field, TypeAdapter

from services.common.faults import InvalidArgument, Violation
from services.trainer.control.domain.checks import checked
from services.trainer.control.domain.drafts import Draft, Findings, Specification
from services.trainer.control.domain.frozen import Frozen
from services.trainer.control.domain.job import JobSpec
from services.trainer.control.domain.methods import LoraMethod, Method, QloraMethod, Rank
from services.trainer.control.domain.settings import MAX_STEPS, JobSettings, TrainingParameters
from services.trainer.control.domain.sweeps.sweep import SweepSpec, steps_until_one_is_left

_ROOT = "tuning_sweep"
_JOB = f"{_ROOT}.tuning_job"
_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
_HIGHEST_LEARNING_RATE = 1.0

LearningRate = Annotated[float, Field(gt=0, le=_HIGHEST_LEARNING_RATE)]


class Search(Frozen):
    """Where to look, as the proto's comments state it. What is empty or None takes its default,
    which the job decides."""

    learning_rates: tuple[LearningRate, ...] = Field(default=(), max_length=16)
    ranks: tuple[Rank, ...] = Field(default=(), max_length=8)
    reduction: int = Field(default=3, ge=2, le=8)
    first_rung_steps: int | None = Field(default=None, ge=1)


_SEARCH = TypeAdapter(Search)


@dataclass(frozen=True)
class SweepDraft:
    """A sweep as asked for, unchecked; what is empty or 0 is not set."""

    job: Draft
    learning_rates: tuple[float, ...] = ()
    ranks: tuple[int, ...] = ()
    reduction: int = 0
    first_rung_steps: int = 0

    @property
    def training(self) -> TrainingParameters:
        """With the defaults of what is not set; its values may be out of their limits."""
        return TrainingParameters.model_construct(**_settings_of(self.job, "training"))

    @property
    def method(self) -> Mapping[str, Any]:
        """Its kind, and what is set of it."""
        return _settings_of(self.job, "method")

    @property
    def has_rank(self) -> bool:
        return self.method.get("kind") in ("lora", "qlora")


async def specified(
    specification: Specification, project: str, draft: SweepDraft, findings: Findings
) -> SweepSpec:
    """What is to be looked for. Raises InvalidArgument with every violation, those found before
    among them, and Unavailable if a catalog does not answer."""
    search = findings.of(lambda: _checked_search(draft))
    findings.violations += _misfits(draft)
    ranks = search.ranks if search is not None and draft.has_rank else ()
    job = await _job(specification, project, draft.job, ranks, findings)
    if findings.violations or search is None or job is None:
        raise InvalidArgument(findings.violations)
    return _resolved(job, search)


async def _job(
    specification: Specification,
    project: str,
    draft: Draft,
    ranks: Sequence[int],
    findings: Findings,
) -> JobSpec | None:
    """Where there are `ranks`, the largest decides whether there is the memory for it."""
    try:
        return await specification.of(
            project, draft, Findings(), lambda settings: _of_largest_rank(settings, ranks)
        )
    except InvalidArgument as fault:
        findings.violations += [_of_sweep(one, ranks) for one in fault.violations]
        return None


def _of_largest_rank(settings: JobSettings, ranks: Sequence[int]) -> JobSettings:
    if not ranks:
        return settings
    method = settings.method.model_copy(update={"rank": max(ranks)})
    return settings.model_copy(update={"method": method})


def _of_sweep(violation: Violation, ranks: Sequence[int]) -> Violation:
    """What is said of a job, said of the sweep that it is in."""
    field = violation.field
    if ranks and violation.reason == "DOES_NOT_FIT":
        field = f"ranks.{ranks.index(max(ranks))}"
    return replace(violation, field=f"{_ROOT}.{field}")


def _checked_search(draft: SweepDraft) -> Search:
    given: dict[str, object] = {
        "learning_rates": draft.learning_rates,
        "ranks": draft.ranks,
        "reduction": draft.reduction,
        "first_rung_steps": draft.first_rung_steps,
    }
    return checked(_SEARCH, {name: value for name, value in given.items() if value}, _ROOT)


def _misfits(draft: SweepDraft) -> list[Violation]:
    """What can not be searched, whatever else is wrong."""
    found = (
        _twice("learning_rates", draft.learning_rates),
        _twice("ranks", draft.ranks),
        _no_steps(draft.training),
        _nothing_held_out(draft.training),
        _first_rung_too_long(draft),
        _ranks_not_to_be_tried(draft),
        _deadline(draft.job),
    )
    return [one for one in found if one is not None]


def _twice(field: str, values: Sequence[float]) -> Violation | None:
    words = [f"{value:g}" for value, count in Counter(values).items() if count > 1]
    if not words:
        return None
    text = f"{', '.join(words)} stands there more than once; name each value once"
    return Violation(f"{_ROOT}.{field}", text, "DUPLICATE")


def _deadline(job: Draft) -> Violation | None:
    if job.settings.get("deadline_time") is None:
        return None
    text = "a search has no deadline: it would end without a winner; cancel it instead"
    return Violation(f"{_JOB}.deadline_time", text, "MUST_BE_UNSET")


def _no_steps(training: TrainingParameters) -> Violation | None:
    if training.max_steps:
        return None
    text = "must be above 0: the steps of a rung are counted from it"
    return Violation(f"{_JOB}.training.max_steps", text, "MISSING")


def _nothing_held_out(training: TrainingParameters) -> Violation | None:
    if training.validation_fraction:
        return None
    text = "must be above 0: trials are compared by their held-out loss"
    return Violation(f"{_JOB}.training.validation_fraction", text, "OUT_OF_RANGE")


def _first_rung_too_long(draft: SweepDraft) -> Violation | None:
    most = draft.training.max_steps
    if not 0 < most <= MAX_STEPS or draft.first_rung_steps <= most:
        return None
    text = f"must be at most the job's max_steps, {most}"
    return Violation(f"{_ROOT}.first_rung_steps", text, "OUT_OF_RANGE")


def _ranks_not_to_be_tried(draft: SweepDraft) -> Violation | None:
    kind = draft.method.get("kind")
    field = f"{_ROOT}.ranks"
    if not draft.ranks or kind is None:
        return None
    if not draft.has_rank:
        return Violation(field, f"{kind} has no rank; only lora and qlora have", "NO_RANK")
    if draft.job.start_version:
        text = "a job that goes on from a version keeps the version's rank; leave ranks empty"
        return Violation(field, text, "OTHER_METHOD")
    return None


def _settings_of(job: Draft, name: str) -> dict[str, Any]:
    """What is set of a part of a job; empty if nothing is."""
    return cast("dict[str, Any]", job.settings.get(name, {}))


def _resolved(job: JobSpec, search: Search) -> SweepSpec:
    """With every default."""
    rates = search.learning_rates or _rates_around(job.settings.training.learning_rate)
    ranks = search.ranks or _own_ranks(job.settings.method)
    most = job.settings.training.max_steps
    count = len(rates) * max(1, len(ranks))
    steps = search.first_rung_steps or steps_until_one_is_left(count, search.reduction, most)
    return SweepSpec(job, rates, ranks, search.reduction, steps)


def _rates_around(own: float | None) -> tuple[float, ...]:
    """`own` times the factors; a setting that was checked has one."""
    if own is None:
        raise ValueError("the settings have no learning rate")
    rates = [float(f"{own * factor:.6g}") for factor in _FACTORS]
    return tuple(rate for rate in rates if rate <= _HIGHEST_LEARNING_RATE)


def _own_ranks(method: Method) -> tuple[int, ...]:
    return (method.rank,) if isinstance(method, LoraMethod | QloraMethod) else ()
