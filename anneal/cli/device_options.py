"""The options of commands that tell what a job would take: on which device, at which price."""

from enum import StrEnum
from typing import Annotated

import typer

from anneal.cli.printing import size
from anneal.enums import word_of
from anneal.trainer.v1.estimate_pb2 import Device

_GIB = 2**30
_TERA = 1e12
_MOST_GIB = 2**30


class Kind(StrEnum):
    """What computes."""

    CPU = "cpu"
    CUDA = "cuda"


def _of_device(*names: str, help: str) -> typer.models.OptionInfo:
    return typer.Option(*names, help=help, rich_help_panel="Device")


MeanExampleTokens = Annotated[
    float, typer.Option(help="Tokens of an example; 0: guessed from the dataset's size.")
]
PricePerHour = Annotated[float, typer.Option(help="Of the device, in any currency; 0: no cost.")]
MemoryGib = Annotated[
    float, _of_device(help="Its memory; 0: the largest device that a node has told of.")
]
KindOption = Annotated[
    Kind | None, _of_device("--device", help="With --memory-gib: what it is (cuda).")
]
Bfloat16Tflops = Annotated[
    float, _of_device(help="With --memory-gib: its speed; 0: no time is told.")
]
Float32Tflops = Annotated[
    float, _of_device(help="With --memory-gib: its speed; 0: no time is told.")
]


def given_device(
    memory_gib: float, kind: Kind | None, bfloat16_tflops: float, float32_tflops: float
) -> Device | None:
    """None where nothing is said of it. Raises BadParameter."""
    if not 0 <= memory_gib <= _MOST_GIB:  # nor if it is no number
        text = f"{memory_gib} is not from 0 to {_MOST_GIB}"
        raise typer.BadParameter(text, param_hint="--memory-gib")
    if not memory_gib:
        _require_nothing_said(kind, bfloat16_tflops, float32_tflops)
        return None
    return Device(
        kind=Device.Kind.Value(f"KIND_{(kind or Kind.CUDA).upper()}"),
        memory_bytes=round(memory_gib * _GIB),
        bfloat16_flops=bfloat16_tflops * _TERA,
        float32_flops=float32_tflops * _TERA,
    )


def _require_nothing_said(kind: Kind | None, bfloat16_tflops: float, float32_tflops: float) -> None:
    said = {
        "--device": kind,
        "--bfloat16-tflops": bfloat16_tflops,
        "--float32-tflops": float32_tflops,
    }
    options = [option for option, value in said.items() if value]
    if options:
        raise typer.BadParameter("tells of a device; say its --memory-gib too", param_hint=options)


def text(device: Device) -> str:
    """What people read: its name, else its kind, and its memory."""
    kind = word_of(Device.Kind.DESCRIPTOR, device.kind).lower()
    return f"{device.model or kind} with {size(device.memory_bytes)}"
