"""How long a run takes: its large products at the speed that was measured, and all the rest.

What is no large product touches what the blocks keep for the backward pass a number of times, at
a speed that goes with that of float32 arithmetic. `python -m benchmarks.durations` prints measured
speeds beside these; finished runs correct them.
"""

from services.trainer.control.domain.estimation.activations import Blocks
from services.trainer.control.domain.estimation.devices import DeviceKind
from services.trainer.control.domain.estimation.parameters import parameters
from services.trainer.control.domain.estimation.precision import BFLOAT16_BYTES
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.estimation.reading import Part
from services.trainer.control.domain.methods import FullMethod, QloraMethod
from services.trainer.control.domain.settings import Checkpointing

_LABELED_SHARE = 0.6
"""Of the tokens: answers of chat data (`make bench-training`: 59 %). The head runs only there."""

_PRODUCTS_REACH = 0.85
"""Of the measured speed: products of a model are smaller than the measured ones."""
_OPERATIONS_A_KEPT_BYTE = 450
"""Of float32, in the time that the rest takes: about the same for all methods, on 14 M
and 110 M Llamas."""
_OPERATIONS_A_QUANTISED_WEIGHT = 1500
"""The same for unpacking a weight, forward and backward, on a CPU; a GPU does it on the way."""
_FORWARD_SHARE = 1 / 3
"""Of the rest: the backward pass takes twice as long as the forward pass."""
_FLOAT32_SPEED = 1 / 8
"""Of bfloat16's, where a GPU's is not known."""

_LONGEST_S = 315_576_000_000.0
"""What a protobuf Duration holds: 10,000 years."""


def tokens_per_second(proposal: Proposal) -> float:
    """Of training, evaluations apart; 0 where the device's speed is not known."""
    seconds = _training_s(proposal)
    return 1 / seconds if seconds else 0.0


def duration_s(proposal: Proposal) -> float | None:
    """From the first step to the last with the evaluations, but not the sample answers; None where
    the device's speed is not known."""
    training = _training_s(proposal)
    if not training:
        return None
    reading = proposal.reading
    evaluating = _products_s(proposal, _forward_flops(proposal)) + _FORWARD_SHARE * _rest_s(
        proposal
    )
    seconds = reading.tokens * training + reading.evaluated_tokens * evaluating
    return min(seconds, _LONGEST_S)


def _training_s(proposal: Proposal) -> float:
    """Of a token; 0 where the device's speed is not known."""
    if not _speed_of_products(proposal) or not _speed_of_the_rest(proposal):
        return 0.0
    rest = _rest_s(proposal)
    if proposal.settings.training.gradient_checkpointing is Checkpointing.ON:
        rest *= 1 + _FORWARD_SHARE
    return _products_s(proposal, _training_flops(proposal)) + rest + _unpacking_s(proposal)


def _speed_of_products(proposal: Proposal) -> float:
    device = proposal.device
    in_bfloat16 = proposal.numbers.product_bytes == BFLOAT16_BYTES
    return device.bfloat16_flops if in_bfloat16 else device.float32_flops


def _speed_of_the_rest(proposal: Proposal) -> float:
    device = proposal.device
    return device.float32_flops or _FLOAT32_SPEED * device.bfloat16_flops


def _products_s(proposal: Proposal, flops: float) -> float:
    return flops / (_PRODUCTS_REACH * _speed_of_products(proposal))


def _rest_s(proposal: Proposal) -> float:
    """Of a token of an average example, forward and backward."""
    numbers, mean = proposal.numbers, round(proposal.reading.mean_tokens)
    blocks = Blocks(proposal.architecture, proposal.method, numbers, proposal.device)
    kept = blocks.kept_bytes(Part(mean, mean)) / mean
    return kept * _OPERATIONS_A_KEPT_BYTE / _speed_of_the_rest(proposal)


def _unpacking_s(proposal: Proposal) -> float:
    """A token's share of what is done once for each part."""
    on_cpu = proposal.device.kind is DeviceKind.CPU
    if not isinstance(proposal.method, QloraMethod) or not on_cpu:
        return 0.0
    reading = proposal.reading
    of_a_part = min(reading.tokens / reading.steps, reading.largest.tokens)
    operations = proposal.architecture.linear_weight_count * _OPERATIONS_A_QUANTISED_WEIGHT
    return operations / of_a_part / _speed_of_the_rest(proposal)


def _forward_flops(proposal: Proposal) -> float:
    """Of a token: two for each weight that it is multiplied with, and for each number of the keys
    and values that it sees, on average those of half a row."""
    model = proposal.architecture
    share = 0.5 if model.is_encoder_decoder else 1.0
    products = share * model.linear_weight_count + _LABELED_SHARE * model.head_weight_count
    seen = proposal.reading.mean_tokens / 2
    attention = share * model.attention_count * 2 * model.queries_width * seen
    return 2 * (products + attention)


def _training_flops(proposal: Proposal) -> float:
    """Of a token: the backward pass takes as much as the forward pass for the gradients of what
    goes in, and once more for those of the weights that are trained. What is computed again takes
    a forward pass."""
    forward = _forward_flops(proposal)
    counts = parameters(proposal.architecture, proposal.method)
    passes = 3 if isinstance(proposal.method, FullMethod) else 2
    if proposal.settings.training.gradient_checkpointing is Checkpointing.ON:
        passes += 1
    return passes * forward + 6 * counts.added
