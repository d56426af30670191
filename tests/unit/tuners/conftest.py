"""Random models of each family, small enough to be computed by hand."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from bitsandbytes.nn import Linear4bit
from peft import PeftConfig, get_peft_model
from torch import Tensor

from services.tuners import BottleneckConfig, PrefixConfig, PrefixLayer

VOCABULARY = 96
_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    **_SPECIAL,
}


def _t5() -> Any:
    config = hf.T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=6,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        decoder_start_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        initializer_factor=1.0,
    )
    model = hf.T5ForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "relative_attention_bias" in name:
            torch.nn.init.normal_(parameter)
    return model


def _gpt2() -> Any:
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            initializer_range=0.2,
            **_SPECIAL,
        )
    )


_FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_LLAMA_LIKE)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**_LLAMA_LIKE, head_dim=12)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**_LLAMA_LIKE, sliding_window=6)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(
            **_LLAMA_LIKE,
            head_dim=8,
            sliding_window=6,
            layer_types=["sliding_attention", "full_attention"],
        )
    ),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**_LLAMA_LIKE)),
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**_LLAMA_LIKE, num_local_experts=2, num_experts_per_tok=1)
    ),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.2,
            **_SPECIAL,
        )
    ),
    "bloom": lambda: hf.BloomForCausalLM(
        hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, **_SPECIAL)
    ),
    "gpt_neo": lambda: hf.GPTNeoForCausalLM(
        hf.GPTNeoConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            **_SPECIAL,
        )
    ),
    "umt5": lambda: hf.UMT5ForConditionalGeneration(
        hf.UMT5Config(vocab_size=VOCABULARY, d_model=32, d_kv=6, d_ff=48, num_layers=2, num_heads=4)
    ),
    "gpt2": _gpt2,
    "t5": _t5,
}


@pytest.fixture(autouse=True)
def one_thread() -> Generator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def base() -> Callable[..., Any]:
    """Makes the model of a family: always the same weights, frozen, evaluating, in float32."""

    def make(family: str, attention: str = "sdpa") -> Any:
        torch.manual_seed(0)
        model = _FAMILIES[family]().eval().requires_grad_(False)
        model.set_attn_implementation(attention)
        model.config.use_cache = False
        return model

    return make


@pytest.fixture
def four_bit(base: Callable[..., Any], tmp_path: Path) -> Callable[[], Any]:
    """Makes the Llama with its linear layers in NF4, always the same."""
    base("llama").save_pretrained(tmp_path / "base")
    quantization = hf.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )

    def make() -> Any:
        model = hf.LlamaForCausalLM.from_pretrained(
            tmp_path / "base", quantization_config=quantization
        )
        for module in model.modules():
            if isinstance(module, Linear4bit):  # after an evaluation it has no gradient otherwise
                module.support_avx512bf16_for_cpu = False
        return model

    return make


@pytest.fixture
def config() -> Callable[..., Any]:
    """Makes the configuration of a method, "bottleneck" or "prefix", for a family."""

    def make(method: str, family: str, **fields: Any) -> PeftConfig:
        kind = {"bottleneck": BottleneckConfig, "prefix": PrefixConfig}[method]
        return kind(task_type="SEQ_2_SEQ_LM" if family == "t5" else "CAUSAL_LM", **fields)

    return make


@pytest.fixture
def tuned(base: Callable[..., Any], config: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a family's model with a method attached, whose parameters are random and large
    enough to matter."""

    def make(method: str, family: str, attention: str = "sdpa", **fields: Any) -> Any:
        model = get_peft_model(base(family, attention), config(method, family, **fields)).eval()
        randomise(model, seed=1)
        return model

    return make


def randomise(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.3, generator=generator)


def tokens(*shape: int, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, shape, generator=generator)


def inputs(family: str, rows: int = 2, length: int = 9) -> dict[str, Tensor]:
    """What a model of the family is called with."""
    token_ids = tokens(rows, length)
    if family != "t5":
        return {"input_ids": token_ids}
    return {"input_ids": token_ids, "decoder_input_ids": tokens(rows, length - 2, seed=3)}


@torch.no_grad()
def logits(model: Any, **arguments: Any) -> Tensor:
    return model(**arguments).logits


def prefix_layers(model: Any) -> list[PrefixLayer]:
    return [module for module in model.modules() if isinstance(module, PrefixLayer)]
