"""The methods of tuning: their limits and defaults, as the proto's comments state them.

To add one: a message in the proto's `method`, a model here, and its name in `Method`.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from services.trainer.control.domain.frozen import Frozen

ModuleName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^.\s]+$")]

Rank = Annotated[int, Field(ge=1, le=512)]
Alpha = Annotated[float, Field(gt=0, le=4096)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
TargetModules = Annotated[tuple[ModuleName, ...], Field(max_length=64)]


class Placement(StrEnum):
    """Where bottleneck adapters are: behind attention and feed-forward, or behind the latter."""

    HOULSBY = "HOULSBY"
    PFEIFFER = "PFEIFFER"


class Activation(StrEnum):
    """What is between an adapter's way down and its way up."""

    RELU = "RELU"
    SILU = "SILU"
    GELU = "GELU"


class FullMethod(Frozen):
    """Every weight is trained."""

    default_learning_rate: ClassVar[float] = 2e-5

    kind: Literal["full"] = "full"


class LoraMethod(Frozen):
    """Low-rank adapters (LoRA, arXiv:2106.09685). No target modules: all linear layers."""

    default_learning_rate: ClassVar[float] = 2e-4

    kind: Literal["lora"] = "lora"
    rank: Rank = 8
    alpha: Alpha = 16.0
    dropout: Dropout = 0.1
    target_modules: TargetModules = ()
    rslora: bool = False
    dora: bool = False


class QloraMethod(Frozen):
    """LoRA on frozen weights of 4 or 8 bits (arXiv:2305.14314)."""

    default_learning_rate: ClassVar[float] = 2e-4

    kind: Literal["qlora"] = "qlora"
    rank: Rank = 8
    alpha: Alpha = 16.0
    dropout: Dropout = 0.1
    target_modules: TargetModules = ()
    rslora: bool = False
    bits: Literal[4, 8] = 4
    double_quantization: bool = True


class PrefixMethod(Frozen):
    """Trained keys and values in front of every attention (arXiv:2101.00190). `projection_size` 0
    trains them as they are."""

    default_learning_rate: ClassVar[float] = 3e-2

    kind: Literal["prefix"] = "prefix"
    prefix_length: int = Field(default=20, ge=1, le=4096)
    projection_size: int = Field(default=0, ge=0, le=16_384)


class AdapterMethod(Frozen):
    """Small networks behind the sublayers (arXiv:1902.00751)."""

    default_learning_rate: ClassVar[float] = 1e-3

    kind: Literal["adapter"] = "adapter"
    adapter_size: int = Field(default=64, ge=1, le=16_384)
    placement: Placement = Placement.PFEIFFER
    activation: Activation = Activation.RELU
    dropout: Dropout = 0.0


Method = Annotated[
    FullMethod | LoraMethod | QloraMethod | PrefixMethod | AdapterMethod,
    Field(discriminator="kind"),
]
"""Told apart by `kind`, which is the field of the proto that it comes from."""

METHODS: Sequence[
    type[FullMethod]
    | type[LoraMethod]
    | type[QloraMethod]
    | type[PrefixMethod]
    | type[AdapterMethod]
] = (
    FullMethod,
    LoraMethod,
    QloraMethod,
    PrefixMethod,
    AdapterMethod,
)
"""In the order in which they are shown."""
