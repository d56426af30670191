"""A byte-level tokenizer, and encoders with a chat template of the test's choice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from services.chat.encoder import ChatEncoder

SPECIAL_TOKENS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"]
TEXT = ["The capital of France is Paris. What is 2 + 2? It is 4.", "user assistant system Hello!"]


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)  # as GPT-2 and Qwen have it
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    return tokenizer.to_str()


@pytest.fixture
def model_directory(tmp_path: Path, tokenizer_json: str) -> Callable[..., Path]:
    """Writes tokenizer files with this template; `config` adds to tokenizer_config.json."""

    def write(template: str | None, **config: Any) -> Path:
        directory = tmp_path / "model"
        directory.mkdir(exist_ok=True)
        (directory / "tokenizer.json").write_text(tokenizer_json)
        tokens = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
        text = json.dumps({**tokens, **config})
        (directory / "tokenizer_config.json").write_text(text)
        if template is not None:
            (directory / "chat_template.jinja").write_text(template)
        return directory

    return write


@pytest.fixture
def encoder_with(model_directory: Callable[..., Path]) -> Callable[[str], ChatEncoder]:
    return lambda template: ChatEncoder.load(model_directory(template))
