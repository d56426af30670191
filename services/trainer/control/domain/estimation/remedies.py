"""What would make a job fit into a device's memory: other ways are tried with the same formula."""

from collections.abc import Iterator, Sequence

from services.trainer.control.domain.estimation.footprint import least_memory, peak_memory
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.methods import METHODS, Method
from services.trainer.control.domain.settings import Checkpointing

_GIB = 2**30


def remedies(proposal: Proposal, peak_ratio: float = 1.0) -> Sequence[str]:
    """For a job that does not fit as it asks, one sentence each: what makes it fit without another
    result; where nothing does, what else would fit. `peak_ratio` corrects the formula.
    """
    if can_train(proposal):
        return [*_smaller_parts(proposal, peak_ratio), _by_itself(proposal)]
    return what_fits(proposal)


def can_train(proposal: Proposal) -> bool:
    """Whether the device has the memory at least for the smallest parts, with activations computed
    again."""
    return least_memory(proposal).total_bytes <= proposal.device.memory_bytes


def what_fits(proposal: Proposal) -> Sequence[str]:
    """For a job that needs too much however it is computed: what would fit, one sentence each."""
    found = [*_allowed_recomputation(proposal), *_other_methods(proposal)]
    need = least_memory(proposal).total_bytes
    found.append(f"{proposal.method.kind} needs a device with at least {in_gib(need)}.")
    return found


def in_gib(size_bytes: float) -> str:
    """Rounded up to a tenth of a GiB, so that what is said suffices."""
    return f"{-(-size_bytes * 10 // _GIB) / 10:.1f} GiB"


def _fits(proposal: Proposal, peak_ratio: float) -> bool:
    return peak_memory(proposal).times(peak_ratio).total_bytes <= proposal.device.memory_bytes


def _smaller_parts(proposal: Proposal, peak_ratio: float) -> Iterator[str]:
    """A step computed in parts gives the same result, and so do activations computed again."""
    recomputing = proposal.with_training(gradient_checkpointing=Checkpointing.ON)
    part = _largest_fitting_part(proposal, peak_ratio)
    if part:
        yield f"micro_batch_tokens {part} fits."
    if _fits(recomputing, peak_ratio):
        yield "gradient_checkpointing ON fits."
    elif not part and (part := _largest_fitting_part(recomputing, peak_ratio)):
        yield f"gradient_checkpointing ON with micro_batch_tokens {part} fits."


def _largest_fitting_part(proposal: Proposal, peak_ratio: float) -> int:
    """A power of two; 0 if none down to the longest example fits."""
    reading = proposal.reading
    tokens = 1 << (reading.largest.tokens.bit_length() - 1)
    while tokens >= reading.largest.row_tokens:
        if _fits(proposal.with_training(micro_batch_tokens=tokens), peak_ratio):
            return tokens
        tokens //= 2
    return 0


def _by_itself(proposal: Proposal) -> str:
    need = in_gib(least_memory(proposal).total_bytes)
    return (
        "Left as it is, the engine goes on in smaller parts where memory runs out: it can train "
        f"from {need} on."
    )


def _allowed_recomputation(proposal: Proposal) -> Iterator[str]:
    if proposal.settings.training.gradient_checkpointing is not Checkpointing.OFF:
        return
    allowed = proposal.with_training(gradient_checkpointing=Checkpointing.AUTO)
    need = least_memory(allowed).total_bytes
    if need <= proposal.device.memory_bytes:
        yield f"gradient_checkpointing AUTO fits: it needs {in_gib(need)} at least."


def _other_methods(proposal: Proposal) -> Iterator[str]:
    """Each that the job's backend trains, with its defaults."""
    for kind in METHODS:
        other: Method = kind()
        if other.kind == proposal.method.kind or not proposal.settings.backend.trains(other.kind):
            continue
        need = least_memory(proposal.with_method(other)).total_bytes
        if need <= proposal.device.memory_bytes:
            yield f"{other.kind} fits: it needs {in_gib(need)} at least."
