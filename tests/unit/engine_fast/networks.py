"""Small random networks, and what a training step on them gives."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from services.trainer.engine.fast import Switches

VOCABULARY = 96
NONE = Switches(**dict.fromkeys((field.name for field in fields(Switches)), False))
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2}

Gradients = dict[str, Tensor]


def base_network(family: str = "llama", **changes: Any) -> Any:
    """A base model, the same at each call."""
    torch.manual_seed(0)
    shape = _SHAPE | changes
    match family:
        case "llama":
            model: Any = LlamaForCausalLM(LlamaConfig(**shape))
        case "mistral":
            model = MistralForCausalLM(MistralConfig(**{"sliding_window": None} | shape))
        case _:
            model = Qwen2ForCausalLM(Qwen2Config(**shape))
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):  # not only ones and zeros
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def adapted_network(
    family: str = "llama",
    targets: Sequence[str] = PROJECTIONS,
    base: dict[str, Any] | None = None,
    **lora: Any,
) -> Any:
    """The base model with LoRA of rank 4, whose B is not zero as it is at first."""
    return with_lora(base_network(family, **base or {}), targets, **lora)


def with_lora(model: nn.Module, targets: Sequence[str], **lora: Any) -> Any:
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **lora}
    network: Any = get_peft_model(model, LoraConfig(target_modules=list(targets), **settings))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
    return network.train()


def some_tokens(rows: int = 3, length: int = 19) -> Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.manual_seed(5))


def step(network: Any, **inputs: Tensor) -> tuple[Tensor, Gradients]:
    """The logits, and the gradients of all trained parameters."""
    network.zero_grad()
    logits = network(**inputs, use_cache=False).logits.float()
    targets = torch.arange(logits[..., 0].numel()) % VOCABULARY
    torch.autograd.backward(nn.functional.cross_entropy(logits.flatten(0, 1), targets))
    gradients = {n: p.grad.float() for n, p in network.named_parameters() if p.requires_grad}
    return logits.detach(), gradients


def difference(found: tuple[Tensor, Gradients], wanted: tuple[Tensor, Gradients]) -> float:
    """The largest relative difference, by norm, of the logits or any gradient."""
    assert found[1].keys() == wanted[1].keys()
    pairs = [(found[0], wanted[0]), *((found[1][n], wanted[1][n]) for n in wanted[1])]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)
