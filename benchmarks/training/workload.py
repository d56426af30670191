"""Writes what all sides train on: the base models, the dataset, and the dataset's token ids.

The engine reads the conversations and encodes them itself; the others get the ids and labels. That
both are the same is checked by `ours`, and by the count of tokens in every measurement.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import transformers
from pyarrow import parquet
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from benchmarks.training.conversations import (
    CHAT_TEMPLATE,
    EXAMPLES,
    LONGEST,
    SPECIAL_TOKENS,
    Exchange,
    exchanges,
    words,
)
from benchmarks.training.encoded import EncodedExample, write_encoded
from benchmarks.training.sizes import VOCABULARY, Size
from services.chat.conversation import Conversation, Message, Role
from services.chat.encoder import ChatEncoder

_transformers: Any = transformers  # untyped packages
_arrow: Any = pa
_parquet: Any = parquet


@dataclass(frozen=True, slots=True)
class Workload:
    """Where its parts lie, and what the dataset holds."""

    directory: Path
    examples: int
    tokens: int
    labels: int
    mean_context: float
    """How many positions a token sees, itself included: its place in its example."""

    @property
    def dataset_file(self) -> Path:
        return self.directory / "examples.parquet"

    @property
    def encoded_file(self) -> Path:
        return self.directory / "encoded.jsonl"

    def base_model(self, size: Size) -> Path:
        return self.directory / f"base-{size.name}"


def write_workload(directory: Path, sizes: list[Size], count: int = EXAMPLES) -> Workload:
    """Writes `count` examples and a model of each size: anew, so that they are what this code says,
    and the same each time."""
    _transformers.logging.disable_progress_bar()
    directory.mkdir(parents=True, exist_ok=True)
    talk = exchanges(count)
    for size in sizes:
        _write_base_model(directory / f"base-{size.name}", size)
    encoder = ChatEncoder.load(directory / f"base-{sizes[0].name}")
    encoded = [_encode(encoder, exchange) for exchange in talk]
    lengths = [len(example.input_ids) for example in encoded]
    tokens = sum(lengths)
    workload = Workload(
        directory,
        examples=len(encoded),
        tokens=tokens,
        labels=sum(example.label_count for example in encoded),
        mean_context=sum(n * (n + 1) / 2 for n in lengths) / tokens,
    )
    write_encoded(workload.encoded_file, encoded)
    _write_dataset(workload.dataset_file, talk)
    return workload


def _encode(encoder: ChatEncoder, exchange: Exchange) -> EncodedExample:
    conversation = Conversation.of(
        Message(Role.USER, exchange.prompt),
        Message(Role.ASSISTANT, exchange.answer, train=True),
    )
    example = encoder.encode(conversation, LONGEST)
    return EncodedExample.of(example.token_ids, example.labeled)


def _write_dataset(path: Path, talk: list[Exchange]) -> None:
    rows = [
        [
            {"role": "user", "content": exchange.prompt, "train": False},
            {"role": "assistant", "content": exchange.answer, "train": True},
        ]
        for exchange in talk
    ]
    _parquet.write_table(_arrow.table({"messages": rows}), path)


def _write_base_model(directory: Path, size: Size) -> None:
    torch.manual_seed(0)
    config = _transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL_TOKENS.index("<pad>"),
        bos_token_id=SPECIAL_TOKENS.index("<s>"),
        eos_token_id=SPECIAL_TOKENS.index("</s>"),
    )
    _transformers.LlamaForCausalLM(config).save_pretrained(directory)
    _tokenizer().save(str(directory / "tokenizer.json"))
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")


def _tokenizer() -> Tokenizer:
    special = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
    tokenizer = Tokenizer(models.WordLevel({**special, **words()}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return tokenizer
