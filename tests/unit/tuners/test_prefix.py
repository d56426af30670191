"""Prefix tuning computes what it is defined as, however the model is called."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from torch import Tensor

from services.tuners import PrefixConfig, PrefixLayer
from tests.unit.tuners.conftest import inputs, logits, prefix_layers, randomise, tokens

FAMILIES = ["llama", "qwen3", "gpt2", "t5"]
CAUSAL = ["llama", "qwen3", "gpt2", "mistral", "gemma3", "phi3", "gpt_neox"]
LENGTH = 3


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("family", CAUSAL)
def test_a_whole_model_computes_what_it_does_with_the_prefix_in_its_cache(
    base: Callable[..., Any], tuned: Callable[..., Any], family: str, masked: bool
) -> None:
    """PEFT's prefix tuning fills the cache before the first token, and so shifts positions."""
    length = 4 if family in ("mistral", "gemma3") else 9  # PEFT's prefix is in the window's way
    theirs = get_peft_model(
        base(family), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    ).eval()
    ours = tuned("prefix", family, prefix_length=2)
    layers = prefix_layers(ours)
    rows = theirs.prompt_encoder["default"].embedding.weight.detach()
    for layer, row in zip(layers, rows.chunk(len(layers), dim=1), strict=True):
        layer.kv_prefix_embedding["default"].data.copy_(row)
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, length - 2 :] = 0
    arguments: dict[str, Any] = {"input_ids": tokens(2, length)}
    if masked:
        arguments["attention_mask"] = mask
    positions = torch.arange(2, length + 2).expand(2, -1)
    kept = mask.bool() if masked else mask > -1
    torch.testing.assert_close(
        logits(ours, **arguments, position_ids=positions)[kept],
        logits(theirs, **arguments)[kept],
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", CAUSAL)
def test_each_packed_example_sees_the_prefix_and_no_neighbour(
    tuned: Callable[..., Any], family: str, attention: str
) -> None:
    model = tuned("prefix", family, attention, prefix_length=LENGTH)
    examples = [tokens(1, length, seed=length) for length in (7, 9, 1, 4)]
    packed = logits(
        model,
        input_ids=torch.cat(examples, 1),
        position_ids=torch.cat([torch.arange(e.shape[1]) for e in examples])[None],
    )
    alone = torch.cat([logits(model, input_ids=example) for example in examples], 1)
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_at_the_right_changes_nothing_with_or_without_a_mask(
    tuned: Callable[..., Any], family: str, attention: str
) -> None:
    model = tuned("prefix", family, attention, prefix_length=LENGTH)
    alone = inputs(family, rows=1)
    padded = {name: torch.nn.functional.pad(ids, (0, 4)) for name, ids in alone.items()}
    mask = (padded["input_ids"] != 0).long()
    expected = logits(model, **alone)
    masked = logits(model, **padded, attention_mask=mask)[:, : expected.shape[1]]
    torch.testing.assert_close(masked, expected, atol=1e-5, rtol=1e-5)
    if family != "t5":  # an encoder would see the padding
        unmasked = logits(model, **padded)[:, : expected.shape[1]]
        torch.testing.assert_close(unmasked, expected, atol=1e-5, rtol=1e-5)


def batch(family: str) -> dict[str, Tensor]:
    source = tokens(2, 9)
    mask = torch.ones_like(source)
    mask[1, 6:] = 0
    labels = tokens(2, 7, seed=3) if family == "t5" else source
    return {"input_ids": source, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("projection_size", [0, 6])
@pytest.mark.parametrize(
    ("family", "reentrant"),
    # As of bottleneck adapters: T5 and the reentrant kind differ by torch's rounding.
    [*((family, False) for family in FAMILIES), ("llama", True), ("gpt2", True)],
)
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(
    tuned: Callable[..., Any], family: str, reentrant: bool, projection_size: int
) -> None:
    model = tuned("prefix", family, prefix_length=LENGTH, projection_size=projection_size).train()

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
    assert all(g.abs().max() > 0 for g in gradients)
    assert all(torch.equal(a, b) for a, b in zip(gradients, recomputed, strict=True))


@pytest.mark.parametrize("cache", ["dynamic", "static", None])
@pytest.mark.parametrize("family", [*CAUSAL, "t5"])
def test_generation_token_by_token_sees_what_the_whole_row_does(
    tuned: Callable[..., Any], family: str, cache: str | None
) -> None:
    model = tuned("prefix", family, prefix_length=LENGTH)
    token_ids, steps = tokens(2, 5), 8
    generated = model.generate(
        input_ids=token_ids,
        max_new_tokens=steps,
        do_sample=False,
        eos_token_id=None,
        use_cache=cache is not None,
        cache_implementation=cache,
        return_dict_in_generate=True,
        output_logits=True,
    )
    row = {"input_ids": generated.sequences}
    if family == "t5":
        row = {"input_ids": token_ids, "decoder_input_ids": generated.sequences}
    at_once = logits(model, **row)[:, -steps - 1 : -1]
    step_by_step = torch.stack(generated.logits, 1)
    torch.testing.assert_close(step_by_step, at_once, atol=1e-4, rtol=1e-4)
    assert torch.equal(generated.sequences[:, -steps:], at_once.argmax(-1))


@pytest.mark.parametrize("family", CAUSAL)
def test_generation_padded_at_the_left_equals_that_without(
    tuned: Callable[..., Any], family: str
) -> None:
    model = tuned("prefix", family, prefix_length=LENGTH)
    generate = functools.partial(
        model.generate, max_new_tokens=6, do_sample=False, eos_token_id=None, use_cache=True
    )
    token_ids = tokens(1, 5)
    padded = torch.nn.functional.pad(token_ids, (3, 0))
    mask = (padded != 0).long()
    alone = generate(input_ids=token_ids, attention_mask=torch.ones_like(token_ids))
    assert torch.equal(generate(input_ids=padded, attention_mask=mask)[:, 3:], alone)


@pytest.mark.parametrize(
    ("family", "layers", "key_heads", "width"),
    [("llama", 2, 2, 8), ("qwen3", 2, 2, 12), ("gpt2", 2, 4, 8), ("t5", 6, 4, 6)],
)
def test_the_trainable_parameters_are_those_of_the_formula(
    tuned: Callable[..., Any], family: str, layers: int, key_heads: int, width: int
) -> None:
    """T5 has an attention in each block of the encoder and two in each of the decoder."""

    def count(**fields: Any) -> int:
        model = tuned("prefix", family, **fields)
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert all("kv_prefix_" in name for name in trainable)
        return sum(p.numel() for p in trainable.values())

    numbers = 2 * key_heads * width
    assert count(prefix_length=5) == layers * 5 * numbers
    assert count(prefix_length=5, projection_size=6) == layers * (
        5 * 6 + (6 * 6 + 6) + (6 * numbers + numbers)
    )


@torch.no_grad()
def test_a_projected_prefix_is_what_its_network_makes_of_it(tuned: Callable[..., Any]) -> None:
    model = tuned("prefix", "llama", prefix_length=LENGTH, projection_size=6)
    plain = tuned("prefix", "llama", prefix_length=LENGTH)
    for projected, direct in zip(prefix_layers(model), prefix_layers(plain), strict=True):
        inner, outer = projected.kv_prefix_inner["default"], projected.kv_prefix_outer["default"]
        rows = projected.kv_prefix_embedding["default"]
        rows = torch.tanh(rows @ inner.weight.T + inner.bias)
        rows = rows @ outer.weight.T + outer.bias
        direct.kv_prefix_embedding["default"].data.copy_(rows)
    torch.testing.assert_close(logits(model, **inputs("llama")), logits(plain, **inputs("llama")))


@pytest.mark.parametrize("projection_size", [0, 8])
@pytest.mark.parametrize("family", [*FAMILIES, "4 bits"])
def test_training_lowers_the_loss_and_leaves_the_base_alone(
    base: Callable[..., Any],
    four_bit: Callable[[], Any],
    config: Callable[..., Any],
    family: str,
    projection_size: int,
) -> None:
    plain = four_bit() if family == "4 bits" else base(family)
    model = get_peft_model(plain, config("prefix", family, projection_size=projection_size)).eval()
    before = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.05)
    losses: list[float] = []
    for _ in range(20):
        loss = model(**batch(family)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_prefixes_of_a_bfloat16_model_are_float32(
    base: Callable[..., Any], config: Callable[..., Any], family: str, autocast: bool
) -> None:
    half = base(family).to(torch.bfloat16)
    model = get_peft_model(half, config("prefix", family), autocast_adapter_dtype=False).eval()
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    exact = get_peft_model(base(family), config("prefix", family)).eval()
    for module in (model, exact):
        randomise(module, seed=1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rounded = logits(model, **inputs(family))
    expected = logits(exact, **inputs(family))
    similarity = torch.cosine_similarity(rounded.float().flatten(), expected.flatten(), 0)
    assert similarity > 0.99


def test_several_active_prefixes_stand_one_after_the_other(tuned: Callable[..., Any]) -> None:
    whole = tuned("prefix", "llama", prefix_length=5)
    parts = tuned("prefix", "llama", prefix_length=2)
    parts.add_adapter("more", PrefixConfig(task_type="CAUSAL_LM", prefix_length=3))
    for long, short in zip(prefix_layers(whole), prefix_layers(parts), strict=True):
        rows = long.kv_prefix_embedding["default"].detach()
        short.kv_prefix_embedding["default"].data.copy_(rows[:2])
        short.kv_prefix_embedding["more"].data.copy_(rows[2:])
    parts.base_model.set_adapter(["default", "more"])
    torch.testing.assert_close(logits(parts, **inputs("llama")), logits(whole, **inputs("llama")))


def test_excluded_modules_get_no_prefix(tuned: Callable[..., Any]) -> None:
    model = tuned("prefix", "t5", exclude_modules=["EncDecAttention"])
    names = [name for name, m in model.named_modules() if isinstance(m, PrefixLayer)]
    assert len(names) == 4
    assert all(name.endswith(".SelfAttention") for name in names)


def test_attention_without_a_dense_mask_is_refused(tuned: Callable[..., Any]) -> None:
    model = tuned("prefix", "llama", prefix_length=LENGTH)
    model.base_model.model.config._attn_implementation = "flex_attention"
    layer = prefix_layers(model)[0]
    with pytest.raises(ValueError, match=r"dense mask \(sdpa\), not flex_attention"):
        layer(hidden_states=torch.zeros(1, 2, 32), attention_mask=None)


@pytest.mark.parametrize("family", ["bloom", "umt5", "gpt_neo"])
def test_an_attention_that_cannot_take_a_prefix_is_refused_before_anything_is_changed(
    base: Callable[..., Any], config: Callable[..., Any], family: str
) -> None:
    model = base(family)
    with pytest.raises(ValueError, match=r"Attention\) cannot take a prefix: "):
        get_peft_model(model, config("prefix", family))
    assert not prefix_layers(model)


def test_a_target_that_is_no_attention_is_refused(
    base: Callable[..., Any], config: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match=r"mlp \(LlamaMLP\) cannot take a prefix: looked for"):
        get_peft_model(base("llama"), config("prefix", "llama", target_modules=["mlp"]))


@pytest.mark.parametrize("field", [{"prefix_length": 0}, {"projection_size": -1}])
def test_a_configuration_out_of_range_is_refused_by_name(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        PrefixConfig(**field)
