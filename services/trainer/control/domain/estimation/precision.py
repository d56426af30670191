"""In which precision a run would multiply, and in which it keeps its weights.

As the engine decides (`services/trainer/engine/precision.py`), but for what it asks the hardware:
here a device counts as fast in bfloat16 if it was measured to be.
"""

from dataclasses import dataclass

from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.methods import FullMethod, Method
from services.trainer.control.domain.settings import Precision

FLOAT32_BYTES = 4
BFLOAT16_BYTES = 2


@dataclass(frozen=True)
class Arithmetic:
    """Bytes of a number: in products, and in the residual stream between them, which has the type
    of the resident weights."""

    product_bytes: int
    stream_bytes: int

    @property
    def is_mixed(self) -> bool:
        """Each product rounds its weight and its input first."""
        return self.product_bytes != self.stream_bytes


def arithmetic(method: Method, precision: Precision, device: Device) -> Arithmetic:
    if not computes_in_bfloat16(precision, device):
        return Arithmetic(FLOAT32_BYTES, FLOAT32_BYTES)
    trains_base = isinstance(method, FullMethod)
    return Arithmetic(BFLOAT16_BYTES, FLOAT32_BYTES if trains_base else BFLOAT16_BYTES)


def computes_in_bfloat16(precision: Precision, device: Device) -> bool:
    """Of a device whose speeds are not known: GPUs in use are fast in bfloat16, most CPUs not."""
    if precision is not Precision.AUTO:
        return precision is Precision.BFLOAT16
    if device.bfloat16_flops and device.float32_flops:
        return device.bfloat16_flops > device.float32_flops
    return device.kind is DeviceKind.CUDA
