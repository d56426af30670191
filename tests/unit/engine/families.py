"""Base models of three families, random and small, which share one tokenizer."""

import shutil
from pathlib import Path

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY = 320


def llama(vocabulary: int = VOCABULARY, blocks: int = 2) -> PreTrainedModel:
    """Its keys and values have half as many heads as the queries."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=blocks,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=1,
            initializer_range=0.2,
        )
    )


def gpt2(vocabulary: int = VOCABULARY) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=512,
            bos_token_id=0,
            eos_token_id=1,
            initializer_range=0.2,
        )
    )


def t5(vocabulary: int = VOCABULARY) -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
            dropout_rate=0.0,
            initializer_factor=1.0,
        )
    )


FAMILIES = {"llama": llama, "gpt2": gpt2, "t5": t5}


def save_base_model(
    family: str, directory: Path, tokenizer_of: Path, vocabulary: int = VOCABULARY
) -> Path:
    """The family's model of one seed, with the tokenizer files of another model directory."""
    torch.manual_seed(0)
    FAMILIES[family](vocabulary).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer_of / name).exists():
            shutil.copyfile(tokenizer_of / name, directory / name)
    return directory
