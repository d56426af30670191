"""Random base models of three families, and versions of them as the engine writes them."""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from services.inference.worker.model import ResidentModel
from services.trainer.engine.methods import Adapter, Full, Lora, Prefix, TuningMethod

SPECIAL_TOKENS = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
VOCABULARY = 256 + len(SPECIAL_TOKENS)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 96
METHODS: dict[str, TuningMethod] = {
    "lora": Lora(rank=4, dropout=0.0),
    "dora": Lora(rank=4, dropout=0.1, rslora=True, dora=True),
    "prefix": Prefix(prefix_length=5),
    "projected prefix": Prefix(prefix_length=3, projection_size=8),
    "pfeiffer": Adapter(adapter_size=6, dropout=0.1),
    "houlsby": Adapter(adapter_size=4, placement="houlsby", activation="gelu"),
    "full": Full(),
}


@dataclass(frozen=True)
class Version:
    """A version's artifacts, and the network that they were written from."""

    directory: Path
    network: Any


@dataclass(frozen=True)
class Family:
    """A base model and its versions, made when they are first asked for."""

    directory: Path
    version: Callable[[str], Version]
    serving: ResidentModel


def _llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=0,
            eos_token_id=1,
            initializer_range=0.2,
        )
    )


def _gpt2() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=CONTEXT,
            bos_token_id=0,
            eos_token_id=1,
            initializer_range=0.2,
        )
    )


def _t5() -> Any:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=32,
            d_kv=6,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
            initializer_factor=1.0,
        )
    )


FAMILIES: dict[str, Callable[[], Any]] = {"llama": _llama, "gpt2": _gpt2, "t5": _t5}


@pytest.fixture(autouse=True)
def one_thread() -> Generator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    @cache
    def make(name: str) -> Family:
        directory = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        FAMILIES[name]().save_pretrained(directory)
        _save_tokenizer(directory)

        @cache
        def version(method: str) -> Version:
            artifacts = tmp_path_factory.mktemp(f"{name}-{method}")
            return tuned(METHODS[method], directory, artifacts)

        return Family(directory, version, ResidentModel(directory))

    return make


def tuned(method: TuningMethod, base_dir: Path, artifacts: Path) -> Version:
    """A version in which every trained weight is far from where it began."""
    torch.manual_seed(1)
    network: Any = method.attach(method.load(base_dir, torch.float32)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)
    method.write(network, base_dir, artifacts)
    return Version(artifacts, network)


def _save_tokenizer(directory: Path) -> None:
    """A token for each byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([""], trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
