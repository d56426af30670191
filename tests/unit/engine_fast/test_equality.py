"""Each gain alone and all together give what transformers and PEFT give."""

import copy
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from services.trainer.engine.fast import Switches, accelerate
from tests.unit.engine_fast.networks import (
    GROUPED,
    NONE,
    VOCABULARY,
    adapted_network,
    base_network,
    difference,
    some_tokens,
    step,
    with_lora,
)

IN_THE_NETWORK = ("resident_bfloat16", "fused_lora", "short_attention", "fused_layers")
SWITCHES = {name: replace(NONE, **{name: True}) for name in IN_THE_NETWORK} | {"all": Switches()}
NETWORKS: dict[str, dict[str, Any]] = {
    "every projection": {},
    "queries and values only": {"targets": ["q_proj", "v_proj"]},
    "gate and down only": {"targets": ["gate_proj", "down_proj"]},
    "grouped queries": {"base": GROUPED},
    "rank-stabilised": {"use_rslora": True},
    "ranks beyond one joint product": {"r": 40},
    "ranks that differ": {"rank_pattern": {"k_proj": 2, "up_proj": 7}},
    "mistral": {"family": "mistral", "base": GROUPED},
    "qwen2, with biases": {"family": "qwen2", "base": GROUPED},
    "llama with biases": {"base": {"attention_bias": True, "mlp_bias": True}},
}


def positions_of(*lengths: int) -> Tensor:
    return torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)


def right_padding() -> Tensor:
    mask = torch.ones(3, 19, dtype=torch.long)
    mask[0, 12:] = mask[2, 7:] = 0
    return mask


INPUTS: dict[str, dict[str, Tensor]] = {
    "rows without a mask": {"input_ids": some_tokens()},
    "rows with right padding": {"input_ids": some_tokens(), "attention_mask": right_padding()},
    "packed rows": {"input_ids": some_tokens(1, 40), "position_ids": positions_of(7, 21, 12)},
    "rows longer than a block": {"input_ids": some_tokens(2, 137)},
    "packed rows longer than a block": {
        "input_ids": some_tokens(1, 300),
        "position_ids": positions_of(90, 33, 140, 37),
    },
}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_float32_equals_stock(network: dict[str, Any], switches: Switches) -> None:
    inputs = INPUTS["rows without a mask"]
    wanted = step(adapted_network(**network), **inputs)
    fast = adapted_network(**network)
    gains = accelerate(fast, switches, torch.float32)
    assert difference(step(fast, **inputs), wanted) < 1e-5
    unnamed = ("group_by_length", "prefetch", "resident_bfloat16")
    possible = [f.name for f in fields(switches) if f.name not in unnamed]
    assert gains == tuple(name for name in possible if getattr(switches, name))


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS.keys())
@pytest.mark.parametrize("base", [{}, GROUPED], ids=["own keys", "grouped"])
def test_every_layout_of_rows_equals_stock(base: dict[str, Any], inputs: dict[str, Tensor]) -> None:
    wanted = step(adapted_network(base=base), **inputs)
    fast = adapted_network(base=base)
    accelerate(fast, Switches(), torch.float32)
    assert difference(step(fast, **inputs), wanted) < 1e-5


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_a_sliding_window_equals_stock(family: str) -> None:
    base = GROUPED | {"sliding_window": 8}
    if family == "qwen2":
        base |= {"use_sliding_window": True, "max_window_layers": 1}
    wanted = step(adapted_network(family, base=base), input_ids=some_tokens(2, 140))
    fast = adapted_network(family, base=base)
    accelerate(fast, Switches(), torch.float32)
    assert difference(step(fast, input_ids=some_tokens(2, 140)), wanted) < 1e-5


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize("base", [{}, GROUPED], ids=["own keys", "grouped"])
def test_bfloat16_is_about_as_exact_as_autocast(base: dict[str, Any], switches: Switches) -> None:
    inputs = INPUTS["rows without a mask"]
    exact = step(adapted_network(base=base), **inputs)
    slow, fast = adapted_network(base=base), adapted_network(base=base)
    accelerate(fast, switches, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        usual, found = (difference(step(n, **inputs), exact) for n in (slow, fast))
    assert found < 2 * usual
    assert all(p.dtype == torch.float32 for p in fast.parameters() if p.requires_grad)


def test_autocast_around_resident_weights_changes_nothing() -> None:
    fast = adapted_network()
    accelerate(fast, Switches(), torch.bfloat16)
    logits, gradients = step(fast, input_ids=some_tokens())
    with torch.autocast("cpu", torch.bfloat16):
        again, gradients_again = step(fast, input_ids=some_tokens())
    assert torch.equal(logits, again)
    assert all(torch.equal(gradients[n], gradients_again[n]) for n in gradients)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_same_seed_gives_the_same_bits(dropout: float) -> None:
    fast = adapted_network(lora_dropout=dropout)
    accelerate(fast, Switches(), torch.bfloat16)
    runs: list[Any] = []
    for _ in range(2):
        torch.manual_seed(9)
        runs.append(step(fast, input_ids=some_tokens()))
    assert torch.equal(runs[0][0], runs[1][0])
    assert all(torch.equal(runs[0][1][n], runs[1][1][n]) for n in runs[0][1])


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_recomputed_activations_give_the_same_gradients(dropout: float) -> None:
    fast = adapted_network(lora_dropout=dropout)
    accelerate(fast, Switches(), torch.float32)
    torch.manual_seed(9)
    wanted = step(fast, input_ids=some_tokens())
    fast.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(9)
    assert difference(step(fast, input_ids=some_tokens()), wanted) == 0


def test_without_gradients_it_equals_stock() -> None:
    slow, fast = adapted_network(lora_dropout=0.3), adapted_network(lora_dropout=0.3)
    accelerate(fast, Switches(), torch.float32)
    with torch.no_grad():
        wanted = slow.eval()(input_ids=some_tokens()).logits
        assert torch.allclose(fast.eval()(input_ids=some_tokens()).logits, wanted, atol=1e-5)


@pytest.mark.parametrize("base", [{}, GROUPED], ids=["own keys", "grouped"])
def test_generation_from_a_cache_equals_stock(base: dict[str, Any]) -> None:
    slow, fast = adapted_network(base=base).eval(), adapted_network(base=base).eval()
    accelerate(fast, Switches(), torch.float32)
    mask = torch.ones(3, 19, dtype=torch.long)
    mask[1, :6] = 0  # padded at the left
    settings = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    settings |= {"output_scores": True, "return_dict_in_generate": True}
    wanted = slow.generate(input_ids=some_tokens(), **settings)
    found = fast.generate(input_ids=some_tokens(), **settings)
    assert torch.equal(found.sequences, wanted.sequences)
    assert torch.allclose(torch.stack(found.scores), torch.stack(wanted.scores), atol=1e-4)


def test_a_trained_norm_gets_its_gradient() -> None:
    def network() -> Any:
        return adapted_network(modules_to_save=["norm", "input_layernorm"])

    wanted, fast = step(network(), input_ids=some_tokens()), network()
    accelerate(fast, Switches(), torch.float32)
    found = step(fast, input_ids=some_tokens())
    assert any("norm" in name for name in found[1])
    assert difference(found, wanted) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_trained_in_full_equals_stock(dtype: torch.dtype) -> None:
    slow, fast = base_network(), base_network()
    accelerate(fast, Switches(), dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        wanted, found = (step(n, input_ids=some_tokens()) for n in (slow, fast))
    assert difference(found, wanted) < (1e-5 if dtype == torch.float32 else 4e-2)
    assert all(p.dtype == torch.float32 for p in fast.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpt2_equals_stock(dtype: torch.dtype) -> None:
    def network() -> Any:
        torch.manual_seed(0)
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        no_dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
        config = GPT2Config(vocab_size=VOCABULARY, **shape, **no_dropout)
        names = ["c_attn", "c_proj", "c_fc"]
        return with_lora(GPT2LMHeadModel(config), names, fan_in_fan_out=True)

    wanted, fast = step(network(), input_ids=some_tokens()), network()
    gains = accelerate(fast, Switches(), dtype)
    assert {"fused_lora", "short_attention"} <= set(gains)
    assert "fused_layers" not in gains
    found = step(fast, input_ids=some_tokens())
    assert difference(found, wanted) < (1e-5 if dtype == torch.float32 else 4e-2)


def test_t5_equals_stock() -> None:
    def network() -> Any:
        torch.manual_seed(0)
        shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        config = T5Config(
            vocab_size=VOCABULARY, dropout_rate=0.0, decoder_start_token_id=0, **shape
        )
        model = T5ForConditionalGeneration(config)
        return with_lora(model, ["q", "v", "wi", "wo"], task_type="SEQ_2_SEQ_LM")

    inputs = {"input_ids": some_tokens(), "decoder_input_ids": some_tokens(3, 8)}
    inputs |= {"attention_mask": right_padding()}
    wanted, fast = step(network(), **inputs), network()
    gains = accelerate(fast, Switches(), torch.float32)
    assert gains == ("fused_adamw", "labeled_logits", "fused_lora", "in_place_loss")
    assert difference(step(fast, **inputs), wanted) < 1e-5


def test_a_copy_of_an_accelerated_network_stands_alone() -> None:
    fast = adapted_network()
    accelerate(fast, Switches(), torch.float32)
    wanted = step(fast, input_ids=some_tokens())
    copied = copy.deepcopy(fast)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.zero_()
    assert difference(step(copied, input_ids=some_tokens()), wanted) < 1e-5


def test_accelerating_twice_is_accelerating_once() -> None:
    fast = adapted_network()
    gains = accelerate(fast, Switches(), torch.float32)
    wanted = step(fast, input_ids=some_tokens())
    assert accelerate(fast, Switches(), torch.float32) == gains
    assert difference(step(fast, input_ids=some_tokens()), wanted) == 0


def test_names_and_saved_files_stay_as_they_were(tmp_path: Any) -> None:
    slow, fast = adapted_network(base=GROUPED), adapted_network(base=GROUPED)
    accelerate(fast, Switches(), torch.float32)
    before, after = slow.state_dict(), fast.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)

    wanted = step(slow, input_ids=some_tokens())[0]
    fast.save_pretrained(tmp_path / "adapter")
    reloaded: Any = PeftModel.from_pretrained(base_network(**GROUPED), tmp_path / "adapter")
    assert torch.allclose(reloaded(input_ids=some_tokens()).logits, wanted, atol=1e-5)
    fast.load_state_dict(before)
    assert difference(step(fast, input_ids=some_tokens()), step(slow, input_ids=some_tokens())) < (
        1e-5
    )

    merged: nn.Module = fast.merge_and_unload()
    assert torch.allclose(merged(input_ids=some_tokens()).logits, wanted, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    read: Any = type(merged).from_pretrained(tmp_path / "merged")
    assert torch.allclose(read(input_ids=some_tokens()).logits, wanted, atol=1e-4)
