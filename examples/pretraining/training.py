"""Pretraining of a small Llama: length-bucketed batches, bf16 autocast, cosine decay.

Muon trains the matrices inside the layers and AdamW the rest: with few steps to spend, that
reaches a far lower loss than AdamW alone.
"""

import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True)
class Example:
    """Token ids and the weight of each one's loss: both of one length."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """`ids` and `weights`, (batch, seq) both; padding is token 0 with weight 0."""

    ids: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Schedule:
    """`batch_tokens` counts padding; the learning rates are the peaks after `warmup` steps."""

    steps: int
    batch_tokens: int = 2048
    matrix_rate: float = 1e-2
    other_rate: float = 5e-3
    warmup: int = 30
    weight_decay: float = 0.1

    def factor(self, step: int) -> float:
        """Share of the peak learning rate: a linear rise, then half a cosine down to 2 %."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def pretrain(
    model: LlamaForCausalLM, examples: Sequence[Example], schedule: Schedule, seed: int
) -> float:
    """Trains in place; returns the mean weighted loss (nats) of the last hundred steps."""
    optimizers = _optimizers(model, schedule)
    schedulers = [LambdaLR(optimizer, schedule.factor) for optimizer in optimizers]
    seeded = random.Random(seed)
    batches = _batches(examples, schedule.batch_tokens, seeded)
    losses: list[float] = []
    started = time.monotonic()
    model.train()
    for step in range(1, schedule.steps + 1):
        loss = _loss(model, next(batches))
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedulers):
            part.step()
        model.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0 or step == schedule.steps:
            _report(step, schedule.steps, losses, time.monotonic() - started)
    return _recent(losses)


def _loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Weighted mean of the next-token loss; no mask is needed, as padding comes last."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1]
    losses = cross_entropy(
        logits.flatten(0, 1).float(), batch.ids[:, 1:].flatten(), reduction="none"
    )
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def _optimizers(model: LlamaForCausalLM, schedule: Schedule) -> list[Optimizer]:
    """Muon orthogonalises its updates, which suits matrices but neither tables nor vectors."""
    matrices = [parameter for parameter in model.model.layers.parameters() if parameter.ndim == 2]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [
        Muon(
            matrices,
            lr=schedule.matrix_rate,
            weight_decay=schedule.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        AdamW(others, lr=schedule.other_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    ]


def _batches(
    examples: Sequence[Example], batch_tokens: int, random_source: random.Random
) -> Iterator[Batch]:
    """Endless batches of similar lengths in random order; each epoch mixes them anew."""
    while True:
        keyed = sorted(examples, key=lambda one: (len(one.ids), random_source.random()))
        blocks: list[list[Example]] = [[]]
        for example in keyed:
            if (len(blocks[-1]) + 1) * len(example.ids) > batch_tokens:
                blocks.append([])
            blocks[-1].append(example)
        random_source.shuffle(blocks)
        yield from map(_padded, blocks)


def _padded(examples: Sequence[Example]) -> Batch:
    return Batch(
        pad_sequence([torch.tensor(one.ids) for one in examples], batch_first=True),
        pad_sequence([torch.tensor(one.weights) for one in examples], batch_first=True),
    )


def build_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """Fresh weights; explicit attention, which on a CPU is faster than the fused one when short."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")
    return model


def _recent(losses: Sequence[float]) -> float:
    window = losses[-100:]
    return sum(window) / len(window)


def _report(step: int, steps: int, losses: Sequence[float], elapsed_s: float) -> None:
    left_s = elapsed_s / step * (steps - step)
    line = (
        f"step {step}/{steps}  loss {_recent(losses):.3f}  {elapsed_s:.0f} s, {left_s:.0f} s left"
    )
    print(line, file=sys.stderr, flush=True)
