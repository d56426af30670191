"""What nodes train on, and what finished runs on it taught the estimates."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class DeviceKind(StrEnum):
    """What computes."""

    CPU = "CPU"
    CUDA = "CUDA"


@dataclass(frozen=True)
class Device:
    """What a node trains on, as it measured it; `..._flops` are operations a second of large
    products, 0 where they are not known."""

    kind: DeviceKind
    model: str
    memory_bytes: int
    bfloat16_flops: float = 0.0
    float32_flops: float = 0.0


@dataclass(frozen=True)
class Corrections:
    """By how much the formulas missed the last `runs` runs: actual / estimated, in the median."""

    peak_ratio: float = 1.0
    duration_ratio: float = 1.0
    runs: int = 0


class Devices(Protocol):
    async def largest(self) -> Device | None:
        """Of the devices whose memory nodes have told of lately, the one of most; None if there is
        none. Raises Unavailable."""
        ...


class Calibration(Protocol):
    async def of(self, method: str, device_model: str) -> Corrections:
        """What finished runs of the method on devices of this model say; no correction if there
        were none, or the model is empty. Raises Unavailable."""
        ...
