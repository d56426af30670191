"""The most memory that a run holds at once, in closed form.

W·b + T·(g + o) + A + R: W parameters of b bytes, T trained ones with their gradient g and AdamW's
two moments o, the activations A, and the process itself, R. docs/memory.md derives it and tells
how far it is off.
"""

from dataclasses import dataclass

from services.trainer.control.domain.estimation.activations import Blocks
from services.trainer.control.domain.estimation.devices import DeviceKind
from services.trainer.control.domain.estimation.parameters import parameters
from services.trainer.control.domain.estimation.precision import BFLOAT16_BYTES, FLOAT32_BYTES
from services.trainer.control.domain.estimation.process import gap_blocks, process_bytes
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.estimation.reading import Part
from services.trainer.control.domain.methods import FullMethod, QloraMethod
from services.trainer.control.domain.settings import Checkpointing

_GRADIENT_BYTES = FLOAT32_BYTES
_MOMENTS_BYTES = 2 * FLOAT32_BYTES

_MOST_BYTES = 2**60
"""What is more than this is as impossible, and the sum of all parts stays a 64-bit number."""

_NF4_BYTES = 0.5
_SCALE_EVERY = 64
"""Weights that share a scale: float32, or with double quantisation a byte, 256 of which share a
float32."""
_SCALES_EVERY = 256


@dataclass(frozen=True)
class PeakMemory:
    """As the proto of this name says."""

    weights_bytes: int
    trainable_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    runtime_bytes: int

    @property
    def total_bytes(self) -> int:
        return (
            self.weights_bytes
            + self.trainable_bytes
            + self.optimizer_bytes
            + self.activations_bytes
            + self.runtime_bytes
        )

    def times(self, ratio: float) -> "PeakMemory":
        return PeakMemory(
            weights_bytes=_whole(self.weights_bytes * ratio),
            trainable_bytes=_whole(self.trainable_bytes * ratio),
            optimizer_bytes=_whole(self.optimizer_bytes * ratio),
            activations_bytes=_whole(self.activations_bytes * ratio),
            runtime_bytes=_whole(self.runtime_bytes * ratio),
        )


def _whole(size_bytes: float) -> int:
    return round(min(size_bytes, _MOST_BYTES))


def peak_memory(proposal: Proposal) -> PeakMemory:
    """Computed as the job asks."""
    reading = proposal.reading
    recompute = proposal.settings.training.gradient_checkpointing is Checkpointing.ON
    held = _Held(proposal, reading.largest, recompute=recompute)
    runtime = process_bytes(proposal).last + held.gaps
    return _peak(proposal, held.activations, runtime, in_parts=reading.has_parts)


def least_memory(proposal: Proposal) -> PeakMemory:
    """With the smallest parts, and activations computed again if the job does not forbid it: what
    the engine turns to when memory runs out; or as the job asks, if that is less. What a process
    gathers in the course of a run is left out: nobody is to be refused for that."""
    recompute = proposal.settings.training.gradient_checkpointing is not Checkpointing.OFF
    held = _Held(proposal, proposal.reading.smallest, recompute=recompute)
    runtime = process_bytes(proposal).first
    least = _peak(proposal, held.activations, runtime, in_parts=True)
    return min(least, peak_memory(proposal), key=lambda one: one.total_bytes)


def _peak(proposal: Proposal, activations: float, runtime: float, *, in_parts: bool) -> PeakMemory:
    """The most of three moments: training, a checkpoint, and the end of loading."""
    counts = parameters(proposal.architecture, proposal.method)
    gradients = counts.trained * _GRADIENT_BYTES
    moments = counts.trained * _MOMENTS_BYTES
    # Gradients come while activations go: only those of an earlier part are there with them.
    backward = activations - (0 if in_parts else gradients)
    checkpoint = moments - gradients  # a second time, as they are written; without gradients
    training = max(backward, checkpoint, _last_gradient(proposal))
    loading = _file_pages(proposal) - gradients - moments
    loaded = process_bytes(proposal).loading
    if loading + loaded > training + runtime:
        training, runtime = loading, loaded
    return PeakMemory(
        weights_bytes=_whole(_weights(proposal)),
        trainable_bytes=_whole(counts.added * FLOAT32_BYTES + gradients),
        optimizer_bytes=_whole(moments),
        activations_bytes=_whole(training),
        runtime_bytes=_whole(runtime),
    )


def _weights(proposal: Proposal) -> float:
    """Those of the base model, as they are kept."""
    model, method = proposal.architecture, proposal.method
    if not isinstance(method, QloraMethod):
        return model.parameter_count * proposal.numbers.stream_bytes
    quantised = model.linear_weight_count
    others = (model.parameter_count - quantised) * proposal.numbers.stream_bytes
    return others + quantised * _quantised_bytes(method)


def _quantised_bytes(method: QloraMethod) -> float:
    """Of a weight with its share of the scales; those of 8 bits have one a row."""
    if method.bits == 8:
        return 1.0
    if not method.double_quantization:
        return _NF4_BYTES + FLOAT32_BYTES / _SCALE_EVERY
    return _NF4_BYTES + (1 + FLOAT32_BYTES / _SCALES_EVERY) / _SCALE_EVERY


class _Held:
    """What the tensors of a part hold at the beginning of the backward pass, when all of them are
    there, and the gaps that they leave in the heap."""

    def __init__(self, proposal: Proposal, part: Part, *, recompute: bool) -> None:
        model = proposal.architecture
        blocks = Blocks(model, proposal.method, proposal.numbers, proposal.device)
        kept = blocks.kept_bytes(part)
        of_a_block = kept / model.block_count
        if recompute:
            kept = blocks.inputs_bytes(part) + of_a_block
        products = max(_logits(proposal, part), _working(proposal, part))
        self.activations = kept + _rounded_weights(proposal) + products
        self.gaps = of_a_block * gap_blocks(proposal)


def _rounded_weights(proposal: Proposal) -> float:
    """In mixed precision the products' weights, rounded, until their gradients are there."""
    if not proposal.numbers.is_mixed:
        return 0.0
    model = proposal.architecture
    return (model.linear_weight_count + model.head_weight_count) * BFLOAT16_BYTES


def _logits(proposal: Proposal, part: Part) -> float:
    """Of all tokens, as if each had a label; their gradient takes their place."""
    return part.tokens * proposal.architecture.vocabulary_size * proposal.numbers.product_bytes


def _working(proposal: Proposal, part: Part) -> float:
    """What the backward pass of a feed-forward holds while it works: the gradients of both its
    projections and of what comes in."""
    model = proposal.architecture
    widths = 3 * model.intermediate_size + 2 * model.hidden_size
    return part.tokens * widths * proposal.numbers.product_bytes


def _last_gradient(proposal: Proposal) -> float:
    """The embedding's gradient, which is made last, beside the sum that it is added to."""
    if not isinstance(proposal.method, FullMethod):
        return 0.0
    return proposal.architecture.head_weight_count * FLOAT32_BYTES


def _file_pages(proposal: Proposal) -> float:
    """On a CPU the files are mapped while the weights are read from them, and where these are kept
    in another type both are there. Published weights have mostly bfloat16."""
    if proposal.device.kind is not DeviceKind.CPU:
        return 0.0
    count = proposal.architecture.parameter_count
    stored = proposal.stored_bytes or count * BFLOAT16_BYTES
    is_kept_as_stored = abs(stored / count - proposal.numbers.stream_bytes) < 0.5
    quantised = isinstance(proposal.method, QloraMethod)
    return 0.0 if is_kept_as_stored and not quantised else stored
