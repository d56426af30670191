"""LoRA's dropout: PEFT's meaning, drawn more cheaply."""

import pytest
import torch
from torch import Tensor

from services.trainer.engine.fast import Switches, accelerate
from services.trainer.engine.fast.dropout import keep_mask, masked
from services.trainer.engine.fast.linears import FrozenLinear, LowRank
from services.trainer.engine.fast.products import joint_product
from tests.unit.engine_fast.networks import adapted_network, difference, some_tokens, step

INPUTS, ROWS, RANK = 12, 30, 3


def joint_linears(probability: float, dtype: torch.dtype) -> list[FrozenLinear]:
    """Three that share their memory; the one in the middle has no adapter."""
    torch.manual_seed(2)
    outputs = (5, 7, 9)
    weights = torch.randn(sum(outputs), INPUTS).to(dtype).split(outputs)
    factors = [
        LowRank(
            torch.randn(RANK, INPUTS, requires_grad=True),
            torch.randn(rows, RANK, requires_grad=True),
            scaling=1.5,
            dropout=probability,
        )
        for rows in outputs
    ]
    return [
        FrozenLinear(weight, None, None if i == 1 else factors[i])
        for i, weight in enumerate(weights)
    ]


def as_peft_computes(x: Tensor, linears: list[FrozenLinear], masks: list[Tensor]) -> Tensor:
    outputs: list[Tensor] = []
    for linear in linears:
        y = x @ linear.weight.t()
        if (low_rank := linear.low_rank) is not None:
            dropped = x * (masks.pop(0) != 0) / (1 - low_rank.dropout)
            y = y + dropped @ low_rank.down.t() @ low_rank.up.t() * low_rank.scaling
        outputs.append(y)
    return torch.cat(outputs, -1)


@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_output_and_gradients_are_those_of_the_masks_drawn(probability: float) -> None:
    linears = joint_linears(probability, torch.float32)
    x = torch.randn(2, ROWS // 2, INPUTS, requires_grad=True)
    trained = [x]
    for linear in linears:
        if linear.low_rank is not None:
            trained += [linear.low_rank.down, linear.low_rank.up]

    torch.manual_seed(4)
    found = joint_product(x, linears)
    assert found is not None
    torch.manual_seed(4)
    drawn = [keep_mask(x, probability) if probability else torch.ones_like(x) for _ in range(2)]
    wanted = as_peft_computes(x, linears, drawn)
    assert torch.allclose(found, wanted, atol=1e-5)

    into = torch.randn_like(wanted)
    pairs = zip(
        torch.autograd.grad(found, trained, into),
        torch.autograd.grad(wanted, trained, into),
        strict=True,
    )
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [1e-6, 0.1, 0.5, 0.9, 1 - 1e-6])
def test_elements_are_dropped_with_the_probability_asked_for(
    probability: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    ones = torch.ones(500, 999, dtype=dtype)
    kept = masked(ones, keep_mask(ones, probability))
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    count = kept.numel()
    deviation = (probability * (1 - probability) * count) ** 0.5
    dropped = count - float(kept.float().sum())
    assert abs(dropped - probability * count) < 4 * deviation + 2**-16 * count + 1


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (keep_mask(torch.ones(1_000_000, dtype=torch.bfloat16), 0.5) != 0).float() - 0.5
    for apart in (1, 2, 3, 4, 8):
        assert abs(float((kept[apart:] * kept[:-apart]).mean())) < 1.5e-3


def test_masked_values_are_kept_to_the_bit_or_zero() -> None:
    values = torch.tensor([-0.0, float("inf"), float("nan"), 1e-40, -3.5])
    assert torch.equal(
        masked(values, torch.full((5,), -1, dtype=torch.int32)).view(torch.int32),
        values.view(torch.int32),
    )
    assert torch.equal(masked(values, torch.zeros(5, dtype=torch.int32)), torch.zeros(5))


@pytest.mark.parametrize("switches", [Switches(), Switches(fused_layers=False)])
def test_on_average_training_sees_the_network_without_dropout(switches: Switches) -> None:
    network = adapted_network(lora_dropout=0.2, base={"num_hidden_layers": 1})
    accelerate(network, switches, torch.float32)
    first = network.base_model.model.model.layers[0].self_attn.q_proj
    x = torch.randn(1, 4, 48)
    with torch.no_grad():
        wanted = network.eval() and first(x)
        network.train()
        draws = torch.stack([first(x) for _ in range(4000)])
    assert not torch.equal(draws[0], draws[1])
    error = (draws.mean(0) - wanted) / (draws.std(0) / 4000**0.5)
    assert float(error.abs().max()) < 5


def test_each_layer_and_call_draws_its_own_mask() -> None:
    x = torch.ones(64, 64)
    torch.manual_seed(0)
    first, second = keep_mask(x, 0.5), keep_mask(x, 0.5)
    assert not torch.equal(first, second)


def test_evaluation_drops_nothing() -> None:
    plain, dropping = adapted_network(), adapted_network(lora_dropout=0.5)
    for network in (plain, dropping):
        accelerate(network.eval(), Switches(), torch.float32)
    wanted = step(plain, input_ids=some_tokens())
    assert difference(step(dropping, input_ids=some_tokens()), wanted) == 0
