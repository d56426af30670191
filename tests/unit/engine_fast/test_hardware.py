from dataclasses import replace
from typing import Any

import pytest
import torch

from services.trainer.engine.fast import Switches, accelerate, multiplies_bfloat16
from tests.unit.engine_fast.networks import NONE, adapted_network, base_network

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"avx2": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({}, False),
    ],
)
def test_a_cpu_multiplies_bfloat16_if_it_has_the_instructions(
    capabilities: dict[str, Any], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert multiplies_bfloat16(CPU) is fast


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_multiplies_bfloat16_from_ampere_on(
    capability: tuple[int, int], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert multiplies_bfloat16(CUDA) is fast


def test_other_devices_stay_in_float32() -> None:
    assert not multiplies_bfloat16(torch.device("meta"))


def test_only_frozen_weights_are_rounded_and_only_for_bfloat16() -> None:
    resident = replace(NONE, resident_bfloat16=True)
    network = adapted_network()
    assert accelerate(network, resident, torch.float32) == ()
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert accelerate(network, resident, torch.bfloat16) == ("resident_bfloat16",)
    for name, parameter in network.named_parameters():
        wanted = torch.float32 if "lora_" in name else torch.bfloat16
        assert parameter.dtype == wanted, name


def test_a_network_with_nothing_to_gain_gains_nothing() -> None:
    trained = base_network()
    assert accelerate(trained, NONE, torch.bfloat16) == ()
    assert accelerate(trained, replace(NONE, fused_lora=True), torch.bfloat16) == ()
    outside = Switches(fused_adamw=False, labeled_logits=False, in_place_loss=False)
    assert accelerate(torch.nn.Linear(2, 2), outside, torch.float32) == ()
