"""What serves results, and which methods' results it can serve."""

from collections.abc import Mapping, Set
from enum import StrEnum

from services.trainer.control.domain.estimation.architecture import Architecture


class Target(StrEnum):
    """What serves the result of a job."""

    LOCAL = "LOCAL"
    VLLM = "VLLM"
    OLLAMA = "OLLAMA"
    LLAMACPP = "LLAMACPP"


_TITLES: Mapping[Target, str] = {
    Target.LOCAL: "Anneal's inference service",
    Target.VLLM: "vLLM",
    Target.OLLAMA: "Ollama",
    Target.LLAMACPP: "llama.cpp",
}

_OWN_METHODS = frozenset({"full", "lora", "qlora", "prefix", "adapter"})
_METHODS_OF_OTHERS = frozenset({"full", "lora", "qlora"})
"""Whole models and PEFT's LoRA are known everywhere: vLLM takes a LoRA as it is, Ollama and
llama.cpp as GGUF. Nobody else has our prefixes and bottleneck adapters."""


def servable_methods(target: Target, architecture: Architecture) -> Set[str]:
    """Of an encoder–decoder none but by our own service: vLLM has no T5 (vllm-project/vllm#7366),
    nor has Ollama (ollama/ollama#10666), and llama.cpp's server is not known to serve adapters of
    it."""
    if target is Target.LOCAL:
        return _OWN_METHODS
    return frozenset() if architecture.is_encoder_decoder else _METHODS_OF_OTHERS


def title(target: Target) -> str:
    """What people call it."""
    return _TITLES[target]
