"""What is more than a frozen linear layer with one plain adapter is left as it is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

from services.trainer.engine.fast import Switches, accelerate
from services.trainer.engine.fast.linears import frozen_linear, joint_weight, lay_jointly
from tests.unit.engine_fast.networks import adapted_network, difference, some_tokens, step

Change = Callable[[Any], object]


def first_query(network: Any) -> Any:
    return network.base_model.model.model.layers[0].self_attn.q_proj


def add_second_adapter(network: Any) -> None:
    torch.manual_seed(7)
    config = LoraConfig(r=3, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    network.add_adapter("second", config)


def use_both_adapters(network: Any) -> None:
    add_second_adapter(network)
    network.base_model.set_adapter(["default", "second"])


def use_second_adapter(network: Any) -> None:
    add_second_adapter(network)
    network.set_adapter("second")


def double(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return 2 * output


SETTINGS: dict[str, dict[str, Any]] = {
    "DoRA": {"use_dora": True},
    "LoRA with a bias": {"lora_bias": True, "base": {"attention_bias": True, "mlp_bias": True}},
    "trained biases": {"bias": "all", "base": {"attention_bias": True, "mlp_bias": True}},
}
CHANGES: dict[str, Change] = {
    "two adapters at a time": use_both_adapters,
    "another adapter": use_second_adapter,
    "disabled adapters": lambda network: network.base_model.disable_adapter_layers(),
    "merged adapters": lambda network: network.merge_adapter(),
    "merged and disabled": lambda network: (
        network.merge_adapter(),
        network.base_model.disable_adapter_layers(),
    ),
    "a hook on a layer": lambda network: first_query(network).register_forward_hook(double),
    "a hook on a base layer": lambda network: first_query(network).base_layer.register_forward_hook(
        double
    ),
    "a hook on an A": lambda network: first_query(network).lora_A.default.register_forward_hook(
        double
    ),
    "a trained weight": lambda network: first_query(network).base_layer.weight.requires_grad_(),
    "a layer taken out of memory": lambda network: first_query(network).base_layer.double().float(),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_other_kinds_of_lora_equal_stock(settings: dict[str, Any]) -> None:
    wanted = step(adapted_network(**settings), input_ids=some_tokens())
    fast = adapted_network(**settings)
    accelerate(fast, Switches(), torch.float32)
    assert difference(step(fast, input_ids=some_tokens()), wanted) < 1e-5


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("first", ["accelerated", "changed"])
def test_a_changed_network_equals_stock(change: Change, first: str) -> None:
    slow, fast = adapted_network(), adapted_network()
    change(slow)
    if first == "changed":
        change(fast)
    accelerate(fast, Switches(), torch.float32)
    if first == "accelerated":
        change(fast)
    ids = some_tokens()
    with torch.no_grad():
        assert torch.allclose(fast(input_ids=ids).logits, slow(input_ids=ids).logits, atol=1e-5)
    if any(p.requires_grad for p in slow.parameters()):
        gradients: list[dict[str, Tensor]] = []
        for network in (slow, fast):
            loss = network(input_ids=ids, labels=ids).loss
            if loss.requires_grad:
                torch.autograd.backward(loss)
            named = network.named_parameters()
            gradients.append({n: p.grad for n, p in named if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, wanted in gradients[0].items():
            assert torch.allclose(gradients[1][name], wanted, atol=1e-5), name


def test_adapters_enabled_again_take_effect_again() -> None:
    fast = adapted_network()
    accelerate(fast, Switches(), torch.float32)
    wanted = step(fast, input_ids=some_tokens())
    fast.merge_adapter()
    fast.unmerge_adapter()
    with fast.disable_adapter(), torch.no_grad():
        assert not torch.allclose(fast(input_ids=some_tokens()).logits, wanted[0], atol=1e-3)
    assert difference(step(fast, input_ids=some_tokens()), wanted) < 1e-5


def test_joint_weights_share_memory_with_their_layers() -> None:
    layers = [nn.Linear(6, rows, bias=False).requires_grad_(False) for rows in (4, 3, 5)]
    values = torch.cat([layer.weight.clone() for layer in layers])
    assert lay_jointly(layers)
    joint = joint_weight([layer.weight for layer in layers])
    assert joint is not None
    assert torch.equal(joint, values)
    layers[1].weight.zero_()
    assert not joint[4:7].any()
    assert joint.untyped_storage().nbytes() == values.numel() * 4


def test_separate_weights_are_not_taken_for_joint_ones() -> None:
    layers = [nn.Linear(6, 4).requires_grad_(False) for _ in range(2)]
    assert joint_weight([layer.weight for layer in layers]) is None


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(6, 4), nn.Linear(6, 4).requires_grad_(False)],
        [nn.Linear(6, 4).requires_grad_(False), nn.Linear(5, 4).requires_grad_(False)],
        [nn.Linear(6, 4).requires_grad_(False), nn.Linear(6, 4).requires_grad_(False).bfloat16()],
        [nn.Linear(6, 4).requires_grad_(False), nn.Sequential()],
    ],
    ids=["trained", "of other widths", "of other types", "not linear"],
)
def test_layers_that_differ_are_not_laid_jointly(layers: list[nn.Module]) -> None:
    before = [parameter.data_ptr() for layer in layers for parameter in layer.parameters()]
    assert not lay_jointly(layers)
    after = [parameter.data_ptr() for layer in layers for parameter in layer.parameters()]
    assert before == after


def test_a_layer_of_unknown_class_is_not_read() -> None:
    class Other(nn.Linear):
        pass

    assert frozen_linear(Other(2, 2).requires_grad_(False)) is None
    assert frozen_linear(nn.Linear(2, 2).requires_grad_(False)) is not None
