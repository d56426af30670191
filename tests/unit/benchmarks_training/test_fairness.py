"""What makes a comparison one of like with like."""

import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.conversations import EXAMPLES, LONGEST, exchanges
from benchmarks.training.ours import PRECISIONS
from benchmarks.training.peers import RECIPES
from benchmarks.training.sizes import (
    LORA_ALPHA,
    LORA_RANK,
    PACKED_ROW_TOKENS,
    SIZES,
    Size,
    useful_flops,
)
from benchmarks.training.variants import VARIANTS
from benchmarks.training.workload import Workload
from services.trainer.engine.plan import Plan

ROOT = Path(__file__).parents[3]


def pins(path: str) -> dict[str, str]:
    lines = (ROOT / path).read_text().splitlines()
    found = (re.fullmatch(r"([\w-]+)==(\S+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def test_every_side_has_a_way_to_run_it() -> None:
    ours = {name for name, variant in VARIANTS.items() if variant.is_ours}
    assert ours == set(PRECISIONS)
    assert set(VARIANTS) - ours == set(RECIPES)


def test_the_others_use_the_versions_that_the_engine_uses() -> None:
    theirs, ours = pins("benchmarks/training/requirements.txt"), pins("constraints.txt")
    assert {"torch", "transformers", "peft", "trl", "accelerate", "datasets"} == set(theirs)
    assert {name: theirs[name] for name in theirs.keys() & ours.keys()} == {
        name: ours[name] for name in theirs.keys() & ours.keys()
    }
    assert torch.__version__.split("+")[0] == theirs["torch"]


@pytest.mark.parametrize("size", SIZES.values(), ids=lambda size: size.name)
def test_steps_hold_the_same_number_of_tokens_on_average(size: Size) -> None:
    control_tokens = 4
    lengths = tuple(
        len(f"{exchange.prompt} {exchange.answer}".split()) + control_tokens
        for exchange in exchanges(EXAMPLES)
    )
    by_examples = size.examples_a_step * sum(lengths) / len(lengths)
    plan = Plan(lengths, 0, size.examples_a_step, size.tokens_a_step)
    by_tokens = sum(lengths) / plan.total_steps(max_steps=0, epochs=1.0)
    assert by_tokens == pytest.approx(by_examples, rel=0.02)
    assert size.packed_rows_a_step * PACKED_ROW_TOKENS == pytest.approx(by_examples, rel=0.02)
    assert LONGEST <= PACKED_ROW_TOKENS


def test_the_useful_work_is_what_torch_counts(workload: Workload, tiny: Size) -> None:
    length = 24
    auto: Any = transformers.AutoModelForCausalLM
    base = auto.from_pretrained(workload.base_model(tiny), attn_implementation="eager")
    lora = peft.LoraConfig(
        r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model: Any = peft.get_peft_model(base, lora)
    ids = torch.randint(6, 100, (1, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    # Without a causal kernel every token meets every other; all of them go through the head.
    assert counter.get_total_flops() == length * useful_flops(tiny, 1.0, length)
