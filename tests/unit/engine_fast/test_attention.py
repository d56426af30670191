"""Short attention is SDPA, whatever is masked."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from services.trainer.engine.fast import attention
from services.trainer.engine.fast.attention import short_attention

HEADS, WIDTH = 4, 8


class Module(nn.Module):
    is_causal = True

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


def heads(length: int, count: int = HEADS, seed: int = 0) -> Tensor:
    made = torch.randn(2, count, length, WIDTH, generator=torch.manual_seed(seed))
    return made.requires_grad_()


def compare(
    length: int, key_length: int, mask: Tensor | None, key_heads: int, **more: Any
) -> float:
    """The largest difference between the two, in the output or a gradient, on seen rows."""
    module = Module(HEADS // key_heads)
    inputs = [heads(length), heads(key_length, key_heads, 1), heads(key_length, key_heads, 2)]
    seen = torch.ones(2, length, dtype=torch.bool)
    if mask is not None:
        visible = mask if mask.dtype == torch.bool else mask > -1e30
        seen = visible.expand(2, HEADS, length, key_length).any(-1).all(1)
    into = torch.randn(2, length, HEADS, WIDTH) * seen[:, :, None, None]
    results: list[list[Tensor]] = []
    for function in (short_attention, sdpa_attention_forward):
        settings: dict[str, Any] = {"dropout": 0.0, "scaling": 0.3} | more
        output, weights = function(module, *inputs, mask, **settings)
        assert weights is None
        gradients = torch.autograd.grad(output, inputs, into)
        results.append([output.detach() * seen[:, :, None, None], *gradients])
    return max(float((a - b).abs().max()) for a, b in zip(*results, strict=True))


def causal(length: int, key_length: int) -> Tensor:
    """The last query sees the last key."""
    mask = torch.ones(length, key_length, dtype=torch.bool)
    return mask.tril(key_length - length)[None, None]


def packed(*lengths: int) -> Tensor:
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    own = segment[:, None] == segment[None, :]
    return (own & causal(len(segment), len(segment))[0, 0])[None, None]


def left_padded(length: int) -> Tensor:
    mask = causal(length, length).repeat(2, 1, 1, 1)
    mask[1, :, :, : length // 3] = False
    return mask


def additive(mask: Tensor) -> Tensor:
    return torch.where(mask, 0.25, torch.finfo(torch.float32).min)


MASKS = {
    "causal": causal(20, 20),
    "causal, several blocks": causal(300, 300),
    "packed": packed(3, 9, 8),
    "packed, several blocks": packed(100, 130, 7, 63),
    "left padding": left_padded(21),
    "left padding, several blocks": left_padded(200),
    "prefix keys in front": causal(20, 25),
    "prefix keys, several blocks": causal(150, 170),
    "packed behind a prefix": torch.cat(
        [torch.ones(1, 1, 200, 11, dtype=torch.bool), packed(90, 110)], -1
    ),
    "one query on a cache": causal(1, 30),
    "a few queries on a cache": causal(5, 40),
}


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_masked_attention_equals_sdpa(mask: Tensor, key_heads: int) -> None:
    length, key_length = mask.shape[-2:]
    assert compare(length, key_length, mask, key_heads) < 1e-5
    assert compare(length, key_length, additive(mask), key_heads) < 1e-5


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("length", [1, 7, 128, 129, 300])
def test_attention_without_a_mask_is_causal(length: int, key_heads: int) -> None:
    assert compare(length, length, None, key_heads) < 1e-5


def test_attention_is_not_causal_if_told_so() -> None:
    assert compare(150, 150, None, 2, is_causal=False) < 1e-5
    assert compare(150, 40, None, 2, is_causal=False) < 1e-5


def test_a_mask_may_be_the_same_for_every_query() -> None:
    mask = torch.ones(2, 1, 1, 150, dtype=torch.bool)
    mask[1, ..., :40] = False
    assert compare(150, 150, mask, 2) < 1e-5
    assert compare(150, 150, additive(mask), 2) < 1e-5


def test_a_query_that_sees_nothing_harms_no_other() -> None:
    mask = left_padded(21)
    inputs = [heads(21), heads(21, seed=1), heads(21, seed=2)]
    output, _ = short_attention(Module(1), *inputs, mask)
    gradients = torch.autograd.grad(output[:, 10:].square().sum(), inputs)
    assert all(bool(t.isfinite().all()) for t in (output, *gradients))


@pytest.mark.parametrize(
    ("length", "more"),
    [
        (12, {"dropout": 0.1}),
        (12, {"position_bias": torch.randn(1, HEADS, 12, 12)}),
        (1032, {}),
    ],
    ids=["dropout", "a bias of positions", "rows too long"],
)
def test_what_it_does_not_cover_goes_to_sdpa(
    length: int, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = SimpleNamespace(times=0)

    def counted(*arguments: Any, **settings: Any) -> Any:
        asked.times += 1
        return sdpa_attention_forward(*arguments, **settings)

    monkeypatch.setattr(attention, "_sdpa", counted)
    inputs = [heads(length), heads(length, seed=1), heads(length, seed=2)]
    torch.manual_seed(0)
    found, _ = short_attention(Module(1), *inputs, None, **more)
    torch.manual_seed(0)
    wanted, _ = sdpa_attention_forward(Module(1), *inputs, None, **more)
    assert asked.times == 1
    assert torch.equal(found, wanted)


def test_autocast_rounds_its_inputs() -> None:
    inputs = [heads(12), heads(12, seed=1), heads(12, seed=2)]
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = short_attention(Module(1), *inputs, None)
    assert output.dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(output.sum(), inputs))
