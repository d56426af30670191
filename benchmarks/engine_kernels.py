"""What each gain inside the network brings: `python -m benchmarks.engine_kernels small` (medium).

A LoRA step of a random Llama on chat-like rows, on one thread, in tokens per second of CPU time.
The sides take turns in one process; each has one more gain than the side before it. All gains, in
whole runs of the engine: `python -m benchmarks.engine_gains`.

`python -m benchmarks.engine_kernels attention` compares attention alone, by length of row.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import peft
import torch
from torch import Tensor, autograd
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks.rounds import Measurement, print_figures, take_turns
from services.trainer.engine.fast import Switches, accelerate, summed_cross_entropy
from services.trainer.engine.fast.attention import short_attention

_peft: Any = peft  # untyped package
_VOCABULARY = 8192
_NOTHING = Switches(**dict.fromkeys((field.name for field in fields(Switches)), False))
_IN_THE_NETWORK = (
    "resident_bfloat16",
    "fused_lora",
    "short_attention",
    "fused_layers",
    "in_place_loss",
)


@dataclass(frozen=True)
class Size:
    """`tokens` is the budget of a batch with its padding."""

    hidden: int
    inner: int
    layers: int
    heads: int
    tokens: int


SIZES = {"small": Size(384, 1024, 6, 6, 1000), "medium": Size(768, 2048, 15, 12, 500)}


@dataclass(frozen=True, eq=False)
class Batch:
    """`token_ids` (rows, length); `targets` are predicted at `positions` of the flattened rows;
    `tokens` counts what is not padding."""

    token_ids: Tensor
    positions: Tensor
    targets: Tensor
    tokens: int


def main() -> None:
    part = sys.argv[1] if len(sys.argv) > 1 else "small"
    torch.set_num_threads(1)
    if part == "attention":
        compare_attention()
    else:
        compare_steps(part)


def compare_attention() -> None:
    sdpa: Any = sdpa_attention_forward
    for dtype in (torch.bfloat16, torch.float32):
        for length in (32, 64, 128, 256, 512, 1024):
            sides = {
                "SDPA": attention_side(sdpa, length, dtype),
                "short attention": attention_side(short_attention, length, dtype),
            }
            unit = "tokens per CPU-second"
            figures = asyncio.run(take_turns(sides, unit, rounds=9))
            print_figures(f"Rows of {length}, {dtype}", figures, reference="SDPA")


def attention_side(attend: Callable[..., Any], length: int, dtype: torch.dtype) -> Measurement:
    """Forward and backward, six heads of 64 over about a thousand tokens."""
    causal = torch.nn.Identity()
    shape = (max(1, 1024 // length), 6, length, 64)
    states = [torch.randn(shape).to(dtype).requires_grad_() for _ in range(3)]

    async def measure() -> float:
        start = time.process_time()
        for _ in range(5):
            attended: Tensor = attend(causal, *states, None)[0]
            torch.autograd.grad(attended.sum(), states)
        return 5 * shape[0] * length / (time.process_time() - start)

    return measure


def compare_steps(size: str) -> None:
    batches = make_batches(SIZES[size].tokens, count=8)
    sides: dict[str, Measurement] = {
        "transformers, float32": side(SIZES[size], batches, _NOTHING, torch.float32),
        "transformers, autocast": side(SIZES[size], batches, _NOTHING, torch.bfloat16),
    }
    switches = _NOTHING
    for name in _IN_THE_NETWORK:
        switches = replace(switches, **{name: True})
        sides[f"+ {name}"] = side(SIZES[size], batches, switches, torch.bfloat16)
    stock = replace(_NOTHING, resident_bfloat16=True)
    sides["resident_bfloat16, torch.compile"] = side(
        SIZES[size], batches, stock, torch.bfloat16, compiled=True
    )
    figures = asyncio.run(take_turns(sides, "tokens per CPU-second", rounds=5))
    print_figures(f"LoRA step, {size} Llama", figures, reference="transformers, autocast")


def side(
    size: Size,
    batches: list[Batch],
    switches: Switches,
    dtype: torch.dtype,
    *,
    compiled: bool = False,
) -> Measurement:
    step = make_step(size, switches, dtype, compiled=compiled)

    async def measure() -> float:
        start = time.process_time()
        for batch in batches:
            step(batch)
        return sum(batch.tokens for batch in batches) / (time.process_time() - start)

    return measure


def make_step(
    size: Size, switches: Switches, dtype: torch.dtype, *, compiled: bool
) -> Callable[[Batch], None]:
    network = make_network(size)
    gains = accelerate(network, switches, dtype)
    base = network.get_base_model()
    blocks: Any = torch.compile(base.model, dynamic=True) if compiled else base.model
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer: Any = torch.optim.AdamW(trained, lr=1e-3, fused=True)

    def step(batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            hidden = blocks(input_ids=batch.token_ids, use_cache=False).last_hidden_state
            logits: Tensor = base.lm_head(hidden.flatten(0, 1)[batch.positions])
        if "in_place_loss" in gains:
            loss = summed_cross_entropy(logits, batch.targets)
        else:
            loss = functional.cross_entropy(logits.float(), batch.targets, reduction="sum")
        autograd.backward(loss / len(batch.targets))
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_network(size: Size) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        tie_word_embeddings=True,
    )
    lora = _peft.LoraConfig(
        r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return _peft.get_peft_model(LlamaForCausalLM(config), lora).train()


def make_batches(tokens: int, count: int) -> list[Batch]:
    """Rows of log-normal length, 20 to 400 tokens with a median of 90, of about the same length
    in a batch; 60 percent of each row is learnt."""
    drawn = random.Random(0)
    lengths = sorted(min(400, max(20, int(drawn.lognormvariate(4.5, 0.75)))) for _ in range(400))
    batches: list[Batch] = []
    rows: list[int] = []
    for length in lengths:
        if rows and _width(length) * (len(rows) + 1) > tokens:
            batches.append(_batch(rows))
            rows = []
        rows.append(length)
    return drawn.sample(batches, count)


def _batch(lengths: list[int]) -> Batch:
    width = _width(max(lengths))
    token_ids = torch.randint(4, _VOCABULARY, (len(lengths), width))
    positions = torch.cat(
        [
            torch.arange(row * width + int(0.4 * length), row * width + length - 1)
            for row, length in enumerate(lengths)
        ]
    )
    return Batch(token_ids, positions, token_ids.flatten()[positions + 1], sum(lengths))


def _width(length: int) -> int:
    return -(-length // 8) * 8


if __name__ == "__main__":
    main()
