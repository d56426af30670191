"""Methods in the order in which they suit a job, each with its reasons: docs/hyperparameters.md."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from services.trainer.control.domain.estimation.estimates import TuningEstimate
from services.trainer.control.domain.estimation.precision import FLOAT32_BYTES
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.estimation.remedies import in_gib
from services.trainer.control.domain.methods import LoraMethod, QloraMethod
from services.trainer.control.domain.recommendation import targets
from services.trainer.control.domain.recommendation.targets import Target

FEW_EXAMPLES = 1_000
MANY_EXAMPLES = 10_000
SMALL_MODEL = 1_000_000_000
"""In parameters: the result of `full` is then at most 4 GB."""

_ORDER_FOR_FEW = ("lora", "qlora", "adapter", "prefix", "full")
_ORDER = ("lora", "qlora", "full", "adapter", "prefix")
_ORDER_FOR_MANY = ("full", "lora", "qlora", "adapter", "prefix")

_MAX_LORA_RANK_OF_VLLM = 16
_WORTH_SAVING = 0.1
_KIB, _MIB, _GIB = 2**10, 2**20, 2**30


@dataclass(frozen=True)
class Recommendation:
    """`reasons` say why it stands where it stands, the weightiest first."""

    estimate: TuningEstimate
    reasons: Sequence[str]


def ranked(
    proposals: Sequence[Proposal], estimates: Sequence[TuningEstimate], target: Target
) -> Sequence[Recommendation]:
    """The best first. `estimates` are those of the proposals, which differ in their methods."""
    order = _order(proposals[0])
    pairs = sorted(zip(proposals, estimates, strict=True), key=lambda pair: _rank(*pair, order))
    by_method = {one.method: one for one in estimates}
    return [
        Recommendation(estimate, [*_reasons(proposal, estimate, by_method, target)])
        for proposal, estimate in pairs
    ]


def _order(proposal: Proposal) -> Sequence[str]:
    """Of those that fit: by what they are expected to learn from so many examples."""
    count = proposal.reading.example_count
    if count < FEW_EXAMPLES:
        return _ORDER_FOR_FEW
    if count >= MANY_EXAMPLES and proposal.architecture.parameter_count <= SMALL_MODEL:
        return _ORDER_FOR_MANY
    return _ORDER


def _rank(proposal: Proposal, estimate: TuningEstimate, order: Sequence[str]) -> tuple[int, int]:
    """What the device can train, in smaller parts too, for they give the same result; then what it
    can not, of which the one that lacks least comes first."""
    if estimate.fits or estimate.least_memory_bytes <= proposal.device.memory_bytes:
        return 0, order.index(estimate.method)
    return 1, estimate.least_memory_bytes


def _reasons(
    proposal: Proposal,
    estimate: TuningEstimate,
    others: Mapping[str, TuningEstimate],
    target: Target,
) -> Iterator[str]:
    yield _memory_reason(proposal, estimate)
    yield _quality_reason(proposal, estimate, others)
    share = estimate.trainable_parameters / estimate.total_parameters
    yield f"Trains {share:.2%} of the parameters; {_result_reason(estimate)}."
    yield from _time_reason(estimate, others.get("lora"))
    yield from _target_reason(proposal, target)


def _memory_reason(proposal: Proposal, estimate: TuningEstimate) -> str:
    has = in_gib(proposal.device.memory_bytes)
    asked, least = in_gib(estimate.peak_memory.total_bytes), in_gib(estimate.least_memory_bytes)
    if estimate.fits:
        return f"Fits: needs {asked} of {has}."
    if estimate.least_memory_bytes <= proposal.device.memory_bytes:
        return f"Fits in smaller parts: would take {asked} of {has}, needs {least} at least."
    return f"Does not fit: needs {least} at least, of {has}."


def _quality_reason(
    proposal: Proposal, estimate: TuningEstimate, others: Mapping[str, TuningEstimate]
) -> str:
    match estimate.method:
        case "full":
            return _quality_of_full(proposal)
        case "lora":
            return "Learns as well as full from small and middling datasets, and forgets less."
        case "qlora":
            return _quality_of_qlora(estimate, others.get("lora"))
        case "adapter":
            return "Learns about as lora does, but can not be merged into the base model."
        case _:
            return "Learns more slowly than lora, and wants a high learning rate."


def _quality_of_full(proposal: Proposal) -> str:
    count, size = proposal.reading.example_count, proposal.architecture.parameter_count
    if count < FEW_EXAMPLES:
        return f"{count:,} examples are few for {size:,} weights: it may learn them by heart."
    if count >= MANY_EXAMPLES and size <= SMALL_MODEL:
        return f"{count:,} examples are enough to gain from training every weight of a small model."
    return f"Rarely better than lora with {count:,} examples and {size:,} weights."


def _quality_of_qlora(estimate: TuningEstimate, lora: TuningEstimate | None) -> str:
    words = "Learns nearly as well as lora"
    if lora is None:
        return f"{words}."
    saved = lora.least_memory_bytes - estimate.least_memory_bytes
    if saved < _WORTH_SAVING * lora.least_memory_bytes:
        return f"{words}, but saves hardly any memory here."
    return f"{words}, and can be trained with {_in_words(saved)} less."


def _result_reason(estimate: TuningEstimate) -> str:
    """Trained parameters are stored in float32."""
    size = estimate.trainable_parameters * FLOAT32_BYTES
    if estimate.method == "full":
        return f"the result is a whole model of {_in_words(size)}"
    return f"the result takes {_in_words(size)} beside the base model"


def _time_reason(estimate: TuningEstimate, lora: TuningEstimate | None) -> Iterator[str]:
    if lora is None or estimate.method == "lora":
        return
    if estimate.duration_s and lora.duration_s:
        yield f"Takes {estimate.duration_s / lora.duration_s:.1f} × as long as lora."


def _target_reason(proposal: Proposal, target: Target) -> Iterator[str]:
    method = proposal.method
    if not isinstance(method, LoraMethod | QloraMethod):
        return
    if target is Target.VLLM:
        needed, default = method.rank, _MAX_LORA_RANK_OF_VLLM
        yield f"vLLM needs --max-lora-rank {needed} or more; its default is {default}."
    if target in (Target.OLLAMA, Target.LLAMACPP):
        yield f"{targets.title(target)} takes the result as GGUF, to which it is converted first."


def _in_words(size_bytes: int) -> str:
    """Rounded; `in_gib` rounds up, for what must suffice."""
    for unit, name in ((_GIB, "GiB"), (_MIB, "MiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes / _KIB:.1f} KiB"
