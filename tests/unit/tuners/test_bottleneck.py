"""Bottleneck adapters compute what they are defined as, where they are defined to be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from services.tuners import BottleneckConfig, BottleneckLayer
from tests.unit.tuners.conftest import inputs, logits, randomise, tokens

FAMILIES = ["llama", "qwen3", "gpt2", "t5"]
PLACEMENTS = ["houlsby", "pfeiffer"]

ATTENTION = {
    "llama": ["model.layers.{}.self_attn.o_proj"],
    "qwen3": ["model.layers.{}.self_attn.o_proj"],
    "gpt_neox": ["gpt_neox.layers.{}.attention.dense"],
    "phi3": ["model.layers.{}.self_attn.o_proj"],
    "gpt2": ["transformer.h.{}.attn.c_proj"],
    "t5": [
        "encoder.block.{}.layer.0.SelfAttention.o",
        "decoder.block.{}.layer.0.SelfAttention.o",
        "decoder.block.{}.layer.1.EncDecAttention.o",
    ],
}
FEED_FORWARD = {
    "llama": ["model.layers.{}.mlp.down_proj"],
    "qwen3": ["model.layers.{}.mlp.down_proj"],
    "gpt_neox": ["gpt_neox.layers.{}.mlp.dense_4h_to_h"],
    "phi3": ["model.layers.{}.mlp.down_proj"],
    "gpt2": ["transformer.h.{}.mlp.c_proj"],
    "t5": [
        "encoder.block.{}.layer.1.DenseReluDense.wo",
        "decoder.block.{}.layer.2.DenseReluDense.wo",
    ],
}


def sites(family: str, placement: str) -> list[str]:
    names = FEED_FORWARD[family] + (ATTENTION[family] if placement == "houlsby" else [])
    return sorted(name.format(block) for name in names for block in range(2))


def adapted(model: Any) -> list[str]:
    whole = model.base_model.model
    return sorted(n for n, m in whole.named_modules() if isinstance(m, BottleneckLayer))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", [*FAMILIES, "gpt_neox", "phi3"])
def test_the_adapters_sit_behind_the_sublayers_of_every_block(
    tuned: Callable[..., Any], family: str, placement: str
) -> None:
    assert adapted(tuned("bottleneck", family, placement=placement)) == sites(family, placement)


@pytest.mark.parametrize(
    ("activation", "by_hand"),
    [("relu", lambda x: x.clamp(min=0)), ("silu", silu), ("gelu", gelu)],
)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_adds_its_definition_to_the_output_of_its_layer(
    base: Callable[..., Any],
    tuned: Callable[..., Any],
    family: str,
    placement: str,
    activation: str,
    by_hand: Callable[[Tensor], Tensor],
) -> None:
    model = tuned("bottleneck", family, adapter_size=5, placement=placement, activation=activation)
    weights = model.state_dict()
    plain = base(family)

    def add(site: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def of(part: str) -> Tensor:
            side, kind = part.split(".")
            return weights[f"base_model.model.{site}.bottleneck_{side}.default.{kind}"]

        def hook(_: nn.Module, __: tuple[Any, ...], y: Tensor) -> Tensor:
            narrow = by_hand(y @ of("down.weight").T + of("down.bias"))
            return y + narrow @ of("up.weight").T + of("up.bias")

        return hook

    for site in sites(family, placement):
        plain.get_submodule(site).register_forward_hook(add(site))
    expected = logits(plain, **inputs(family))
    assert not torch.allclose(expected, logits(base(family), **inputs(family)), atol=0.1)
    torch.testing.assert_close(logits(model, **inputs(family)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_adapter_changes_nothing_at_all(
    base: Callable[..., Any], config: Callable[..., Any], family: str, placement: str
) -> None:
    before = logits(base(family), **inputs(family))
    model = get_peft_model(base(family), config("bottleneck", family, placement=placement)).eval()
    assert torch.equal(logits(model, **inputs(family)), before)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_trainable_parameters_are_those_of_the_formula(
    tuned: Callable[..., Any], family: str, placement: str
) -> None:
    model = tuned("bottleneck", family, adapter_size=7, placement=placement)
    hidden, size = 32, 7
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trainable.values()) == len(sites(family, placement)) * (
        2 * hidden * size + hidden + size
    )
    assert all("bottleneck_" in name for name in trainable)


def test_dropout_acts_in_training_alone(tuned: Callable[..., Any]) -> None:
    model = tuned("bottleneck", "llama", dropout=0.5)
    first = logits(model, **inputs("llama"))
    assert torch.equal(logits(model, **inputs("llama")), first)
    model.train()
    assert not torch.equal(logits(model, **inputs("llama")), logits(model, **inputs("llama")))


@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_loss_and_leaves_the_base_alone(
    base: Callable[..., Any], config: Callable[..., Any], family: str
) -> None:
    model = get_peft_model(base(family), config("bottleneck", family, adapter_size=8)).eval()
    before = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    losses = train(model, family)
    assert losses[-1] < losses[0] - 0.5
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())


def train(model: Any, family: str, steps: int = 20) -> list[float]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.02)
    losses: list[float] = []
    for _ in range(steps):
        loss = model(**batch(family)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def batch(family: str) -> dict[str, Tensor]:
    source = tokens(2, 9)
    return {"input_ids": source, "labels": tokens(2, 7, seed=3) if family == "t5" else source}


@pytest.mark.parametrize(
    ("family", "reentrant"),
    # T5's projections have no bias; torch multiplies such ones in another order if their input
    # needs a gradient, which only the reentrant kind sees to.
    [*((family, False) for family in FAMILIES), ("llama", True), ("gpt2", True)],
)
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(
    tuned: Callable[..., Any], family: str, reentrant: bool
) -> None:
    model = tuned("bottleneck", family, placement="houlsby", dropout=0.2).train()

    def run() -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        torch.manual_seed(5)
        loss = model(**batch(family)).loss
        loss.backward()
        return loss.detach(), [p.grad for p in model.parameters() if p.requires_grad]

    loss, gradients = run()
    model.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    again, recomputed = run()
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, recomputed, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_is_greedy_decoding_without(
    tuned: Callable[..., Any], family: str
) -> None:
    model = tuned("bottleneck", family, placement="houlsby")
    arguments = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    cached = model.generate(input_ids=tokens(2, 6), use_cache=True, **arguments)
    uncached = model.generate(input_ids=tokens(2, 6), use_cache=False, **arguments)
    assert torch.equal(cached, uncached)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_of_a_bfloat16_model_are_float32(
    base: Callable[..., Any], config: Callable[..., Any], family: str
) -> None:
    half = base(family).to(torch.bfloat16)
    before = logits(half, **inputs(family))
    model = get_peft_model(half, config("bottleneck", family), autocast_adapter_dtype=False).eval()
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    after = logits(model, **inputs(family))
    assert after.dtype == torch.bfloat16
    assert torch.equal(after, before)
    randomise(model, seed=1)
    assert not torch.equal(logits(model, **inputs(family)), before)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_adapters_train_on_a_4_bit_model(
    four_bit: Callable[[], Any], config: Callable[..., Any], placement: str
) -> None:
    before = logits(four_bit(), **inputs("llama"))
    model = get_peft_model(four_bit(), config("bottleneck", "llama", placement=placement)).eval()
    assert adapted(model) == sites("llama", placement)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert torch.equal(logits(model, **inputs("llama")), before)
    losses = train(model, "llama")
    assert losses[-1] < losses[0] - 0.5


def test_named_target_modules_take_the_place_of_the_placement(tuned: Callable[..., Any]) -> None:
    model = tuned("bottleneck", "llama", target_modules=["q_proj"])
    assert adapted(model) == [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]


def test_excluded_modules_get_no_adapter(tuned: Callable[..., Any]) -> None:
    model = tuned("bottleneck", "llama", exclude_modules=["layers.0.mlp.down_proj"])
    assert adapted(model) == ["model.layers.1.mlp.down_proj"]


def test_a_mixture_of_experts_is_refused_before_anything_is_changed(
    base: Callable[..., Any], config: Callable[..., Any]
) -> None:
    model = base("mixtral")
    with pytest.raises(ValueError, match=r"feed-forward part of model\.layers\.0 is a mixture"):
        get_peft_model(model, config("bottleneck", "mixtral"))
    assert not any(isinstance(module, BottleneckLayer) for module in model.modules())


def test_a_block_without_a_known_projection_is_refused_with_what_was_looked_for(
    base: Callable[..., Any], config: Callable[..., Any]
) -> None:
    model = base("llama")
    for layer in model.model.layers:
        layer.mlp.last, layer.mlp.down_proj = layer.mlp.down_proj, nn.Identity()
    with pytest.raises(ValueError, match=r"named down_proj, .* linear layers are gate_proj, up_pr"):
        get_peft_model(model, config("bottleneck", "llama"))


def test_a_target_that_is_not_linear_is_refused(
    base: Callable[..., Any], config: Callable[..., Any]
) -> None:
    model = base("llama")
    with pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn is a LlamaAttention"):
        get_peft_model(model, config("bottleneck", "llama", target_modules=["o_proj", "self_attn"]))
    assert not any(isinstance(module, BottleneckLayer) for module in model.modules())


@pytest.mark.parametrize(
    "field",
    [
        {"adapter_size": 0},
        {"placement": "parallel"},
        {"activation": "tanh"},
        {"dropout": 1.0},
        {"dropout": -0.1},
    ],
)
def test_a_configuration_out_of_range_is_refused_by_name(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        BottleneckConfig(**field)
