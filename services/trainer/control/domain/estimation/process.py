"""What a training process holds besides tensors.

Constants of this page are measured, on a CPU, by `python -m benchmarks.memory` and by following the
resident memory of runs from step to step; docs/memory.md has the figures.
"""

from dataclasses import dataclass

from services.trainer.control.domain.estimation.devices import DeviceKind
from services.trainer.control.domain.estimation.precision import BFLOAT16_BYTES
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.methods import LoraMethod, QloraMethod

_LOADED_BYTES = 535e6
"""Interpreter and libraries once a model is loaded."""
_WARM_BYTES = 630e6
"""The same once a step was taken."""
_KERNEL_BYTES = 0.5e6
"""oneDNN compiles bfloat16 products anew for each shape, and keeps what it compiled."""
_MOST_KERNELS_BYTES = 600e6
"""It keeps 1,024 of them."""
_LOW_RANK_PRODUCTS, _OTHER_PRODUCTS = 30, 14
"""Of different shapes in a step: blocks are alike, but forward and backward pass are not, and each
low-rank update has six thin ones."""

_GAPS_BETWEEN_KERNELS, _GAPS = 5, 2
"""Tensors of a step leave gaps in glibc's heap that the next step's, of another length, do not fit
into: as much as the activations of so many blocks, more where kernels come to lie between them."""

_CUDA_CONTEXT_BYTES = 0.6e9
"""The context of CUDA and the libraries' kernels. An assumption: not measured here."""


@dataclass(frozen=True)
class ProcessBytes:
    """While the model is loaded, after the first step, and after the last."""

    loading: float
    first: float
    last: float


def process_bytes(proposal: Proposal) -> ProcessBytes:
    if proposal.device.kind is DeviceKind.CUDA:
        return ProcessBytes(*[_CUDA_CONTEXT_BYTES] * 3)
    return ProcessBytes(_LOADED_BYTES, _WARM_BYTES, _WARM_BYTES + _kernels(proposal))


def gap_blocks(proposal: Proposal) -> int:
    """On a GPU torch has an allocator of its own, which joins what is freed."""
    if proposal.device.kind is DeviceKind.CUDA:
        return 0
    return _GAPS_BETWEEN_KERNELS if _compiles(proposal) else _GAPS


def _compiles(proposal: Proposal) -> bool:
    return proposal.numbers.product_bytes == BFLOAT16_BYTES


def _kernels(proposal: Proposal) -> float:
    """As if each step had another shape, until no more are kept."""
    if not _compiles(proposal):
        return 0.0
    is_low_rank = isinstance(proposal.method, LoraMethod | QloraMethod)
    products = _LOW_RANK_PRODUCTS if is_low_rank else _OTHER_PRODUCTS
    return min(_MOST_KERNELS_BYTES, proposal.reading.steps * products * _KERNEL_BYTES)
