"""Which method suits a dataset, a base model, a device and a target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from services.common.faults import InvalidArgument, Violation
from services.trainer.control.domain.checks import checked
from services.trainer.control.domain.drafts import Findings
from services.trainer.control.domain.estimation.devices import Device
from services.trainer.control.domain.estimation.estimates import EstimateCall, Estimates, Question
from services.trainer.control.domain.frozen import Frozen
from services.trainer.control.domain.recommendation import targets
from services.trainer.control.domain.recommendation.ranking import Recommendation, ranked
from services.trainer.control.domain.recommendation.targets import Target


@dataclass(frozen=True)
class RecommendCall:
    """A RecommendMethod, unchecked: an estimate of a job without a method, and the word of the
    target."""

    estimate: EstimateCall
    target: str


class _Wanted(Frozen):
    target: Target


_WANTED: TypeAdapter[_Wanted] = TypeAdapter(_Wanted)


class Recommendations:
    """The use case of RecommendMethod."""

    def __init__(self, estimates: Estimates) -> None:
        self._estimates = estimates

    async def of(self, call: RecommendCall) -> tuple[Sequence[Recommendation], Device]:
        """The methods that the target can serve, the best first, and the device they are for.

        Raises InvalidArgument with every violation, and as `Estimates.of`.
        """
        findings = Findings()
        wanted = findings.of(lambda: checked(_WANTED, {"target": call.target}, ""))
        question = await self._estimates.question(_without_method(call, findings), findings)
        if wanted is None:
            raise InvalidArgument(findings.violations)
        served = _served(question, wanted.target)
        if not served.proposals:
            raise _nothing_served(wanted.target)
        estimates = await self._estimates.answers(served)
        return ranked(served.proposals, estimates, wanted.target), question.device


def _without_method(call: RecommendCall, findings: Findings) -> EstimateCall:
    """What can not be asked for here is left out, and is a finding."""
    draft = call.estimate.draft
    settings = {name: value for name, value in draft.settings.items() if name != "method"}
    if "method" in draft.settings:
        words = "leave it unset: it is what is to be chosen"
        findings.violations.append(Violation("tuning_job.method", words, "MUST_BE_UNSET"))
    if draft.start_version:
        words = "leave it unset: what goes on from a version keeps the version's method"
        findings.violations.append(Violation("tuning_job.start_version", words, "MUST_BE_UNSET"))
    return replace(call.estimate, draft=replace(draft, settings=settings, start_version=""))


def _served(question: Question, target: Target) -> Question:
    """Without the methods that the target can not serve."""
    methods = targets.servable_methods(target, question.proposals[0].architecture)
    served = [one for one in question.proposals if one.method.kind in methods]
    return replace(question, proposals=served)


def _nothing_served(target: Target) -> InvalidArgument:
    words = f"{targets.title(target)} serves no encoder–decoder; LOCAL does"
    return InvalidArgument.of("target", words, "TARGET_LACKS_MODEL")
