"""The closed form of the peak beside peaks that `python -m benchmarks.memory` measured."""

from dataclasses import replace
from typing import Any

import pytest

from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.estimation.footprint import least_memory, peak_memory
from services.trainer.control.domain.estimation.reading import Examples
from tests.unit.trainer_control.proposals import llama, proposal

MODELS = {
    "14m": (llama(384, 1024, 6, 6, 6, tied_vocabulary=8192), 1035),
    "110m": (llama(768, 2048, 15, 12, 12, tied_vocabulary=8192), 560),
}
CORES = Device(DeviceKind.CPU, "two cores with bfloat16", 2**35, 4e11, 1e11)
EIGHT_BITS = {"kind": "qlora", "bits": 8}

MEASURED: list[tuple[str, str | dict[str, Any], dict[str, Any], int]] = [
    ("14m", "full", {}, 1089),
    ("14m", "lora", {}, 1019),
    ("14m", "qlora", {}, 1075),
    ("14m", EIGHT_BITS, {}, 1101),
    ("14m", "prefix", {}, 822),
    ("14m", "adapter", {}, 845),
    ("110m", "full", {}, 3013),
    ("110m", "lora", {}, 1585),
    ("110m", "qlora", {}, 1598),
    ("110m", EIGHT_BITS, {}, 1710),
    ("110m", "prefix", {}, 1216),
    ("110m", "adapter", {}, 1254),
    ("14m", "full", {"batch_tokens": 4000}, 1863),
    ("14m", "lora", {"batch_tokens": 4000}, 2066),
    ("14m", "qlora", {"batch_tokens": 4000}, 2427),
    ("14m", "prefix", {"batch_tokens": 4000}, 1419),
    ("14m", "adapter", {"batch_tokens": 4000}, 1478),
    ("110m", "full", {"batch_tokens": 2000}, 4228),
    ("110m", "lora", {"batch_tokens": 2000}, 3374),
    ("110m", "adapter", {"batch_tokens": 2000}, 2279),
    ("14m", "full", {"precision": "FLOAT32"}, 1119),
    ("14m", "lora", {"precision": "FLOAT32"}, 1059),
    ("14m", "qlora", {"precision": "FLOAT32"}, 1259),
    ("14m", "prefix", {"precision": "FLOAT32"}, 885),
    ("14m", "adapter", {"precision": "FLOAT32"}, 869),
    ("14m", "full", {"gradient_checkpointing": "ON"}, 973),
    ("14m", "lora", {"gradient_checkpointing": "ON"}, 890),
    ("14m", "qlora", {"gradient_checkpointing": "ON"}, 889),
    ("14m", "prefix", {"gradient_checkpointing": "ON"}, 782),
    ("14m", "adapter", {"gradient_checkpointing": "ON"}, 817),
]
"""Peaks of eight steps on 400 chat examples of 103 tokens on average, in megabytes."""


@pytest.mark.parametrize(("size", "method", "training", "measured"), MEASURED)
def test_the_peak_is_at_most_15_percent_off(
    size: str, method: str | dict[str, Any], training: dict[str, Any], measured: int
) -> None:
    model, batch_tokens = MODELS[size]
    given = {"kind": method} if isinstance(method, str) else dict(method)
    settings = {
        "max_steps": 8,
        "batch_tokens": batch_tokens,
        "max_sequence_tokens": 400,
        "validation_fraction": 0.05,
        **training,
    }
    asked = proposal(
        given.pop("kind"),
        settings,
        model=model,
        device=CORES,
        examples=Examples(400, 103.2),
        **given,
    )
    asked = replace(asked, stored_bytes=4 * model.parameter_count)

    assert peak_memory(asked).total_bytes / 1e6 == pytest.approx(measured, rel=0.15)
    assert least_memory(asked).total_bytes / 1e6 < measured


def test_weights_that_are_read_in_another_type_are_there_twice_on_a_cpu() -> None:
    """Where a model is large beside its batches, that is the most that is held."""
    model = llama(1024, 4096, 24, 16, 16, tied_vocabulary=32_000)
    training = {"batch_size": 1, "max_sequence_tokens": 16, "max_steps": 1}
    asked = proposal("prefix", training, model=model, device=CORES)
    as_float32 = replace(asked, stored_bytes=4 * model.parameter_count)
    as_bfloat16 = replace(asked, stored_bytes=2 * model.parameter_count)
    on_a_gpu = replace(as_float32, device=replace(CORES, kind=DeviceKind.CUDA))

    both = peak_memory(as_float32)
    assert both.weights_bytes + both.activations_bytes >= 5.9 * model.parameter_count
    assert peak_memory(as_bfloat16).total_bytes < both.total_bytes
    assert peak_memory(on_a_gpu).activations_bytes < 2 * model.parameter_count
