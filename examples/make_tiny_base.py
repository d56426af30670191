"""Makes `tiny-base/`, a small pretrained chat model, from the text inside this Python.

    python examples/make_tiny_base.py [--output DIR] [--steps N] [--seed N] [--threads N]

The same Python, library versions, seed and thread count give the same weights.
"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pretraining.conversations import Conversation, ConversationWriter
from pretraining.corpus import Corpus, read_corpus
from pretraining.tokens import (
    ASSISTANT,
    CONTEXT_TOKENS,
    END,
    PAD,
    chat_tokenizer,
    rendering,
    train_tokenizer,
)
from pretraining.training import Example, Schedule, build_model, pretrain
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

PROSE_TOKENS = 256
MIN_PROSE_TOKENS = 16
PROSE_WEIGHT = 0.3
TOKENIZER_CONVERSATIONS = 20_000


@dataclass(frozen=True)
class Arguments:
    output: Path
    steps: int
    conversations: int
    seed: int
    threads: int


def parse_arguments(argv: Sequence[str]) -> Arguments:
    parser = argparse.ArgumentParser(description="Makes a small pretrained chat model.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "tiny-base")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--conversations", type=int, default=70_000)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    return Arguments(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str]) -> None:
    arguments = parse_arguments(argv)
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("medium")
    started = time.monotonic()
    corpus = read_corpus()
    seeded = random.Random(arguments.seed)
    writer = ConversationWriter(corpus, seeded)
    conversations = writer.write(arguments.conversations)
    tokenizer = train_tokenizer(tokenizer_texts(corpus, conversations))
    examples = prose_examples(tokenizer, corpus.prose) + chat_examples(tokenizer, conversations)
    say(f"{len(examples)} examples, {sum(len(example.ids) for example in examples)} tokens")
    model = build_model(model_config(tokenizer), arguments.seed)
    say(f"{model.num_parameters()} parameters")
    loss = pretrain(model, examples, Schedule(arguments.steps), arguments.seed)
    save(model, tokenizer, arguments.output)
    say(f"final loss {loss:.3f}, {time.monotonic() - started:.0f} s, saved to {arguments.output}")


def tokenizer_texts(corpus: Corpus, conversations: Sequence[Conversation]) -> list[str]:
    chats = conversations[:TOKENIZER_CONVERSATIONS]
    turns = [turn for chat in chats for turn in chat.turns]
    return corpus.prose + [text for turn in turns for text in (turn.question, turn.answer)]


def prose_examples(tokenizer: Tokenizer, documents: Sequence[str]) -> list[Example]:
    """Documents cut into pieces of `PROSE_TOKENS`; what is left of each is kept if not tiny."""
    examples: list[Example] = []
    for encoding in tokenizer.encode_batch(list(documents)):
        for start in range(0, len(encoding.ids) - MIN_PROSE_TOKENS, PROSE_TOKENS):
            ids = encoding.ids[start : start + PROSE_TOKENS]
            examples.append(Example(ids, [PROSE_WEIGHT] * len(ids)))
    return examples


def chat_examples(tokenizer: Tokenizer, conversations: Sequence[Conversation]) -> list[Example]:
    """Conversations in the form of the chat template, cut at the context length."""
    rendered = [rendering(conversation.messages()) for conversation in conversations]
    encodings = tokenizer.encode_batch(rendered)
    return [chat_example(tokenizer, encoding.ids[:CONTEXT_TOKENS]) for encoding in encodings]


def chat_example(tokenizer: Tokenizer, ids: list[int]) -> Example:
    """What the assistant says and its end token weigh 1, all else `PROSE_WEIGHT`."""
    assistant, end = tokenizer.token_to_id(ASSISTANT), tokenizer.token_to_id(END)
    weights: list[float] = []
    speaking = False
    for token in ids:
        weights.append(1.0 if speaking else PROSE_WEIGHT)
        speaking = token == assistant or (speaking and token != end)
    return Example(ids, weights)


def model_config(tokenizer: Tokenizer) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.token_to_id(PAD),
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
    )


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, output: Path) -> None:
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=128,
        pad_token_id=tokenizer.token_to_id(PAD),
        eos_token_id=tokenizer.token_to_id(END),
    )
    model.bfloat16().save_pretrained(output)
    chat_tokenizer(tokenizer).save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
