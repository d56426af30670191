"""Answers to held-out prompts, so that a person can read how far the training is."""

import sys
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

import torch
import transformers

from services.trainer.engine.events import Sample
from services.trainer.engine.examples import Encoder, Example
from services.trainer.engine.model import TunableModel

_transformers: Any = transformers  # untyped package

_LONGEST_BEGINNING = 64
"""Tokens of a plain text that the model goes on from."""

_LONGEST_TEXT = 2048
"""Characters: an event is one line, and whoever reads it has set it a limit."""


@torch.no_grad()
def answers(
    model: TunableModel, examples: Iterable[Example], encoder: Encoder, max_tokens: int
) -> tuple[Sample, ...]:
    """The likeliest next tokens after the prompt of each example, `max_tokens` at most; draws
    nothing at random."""
    model.network.eval()
    with model.arithmetic():
        made = tuple(_answer(model, example, encoder, max_tokens) for example in examples)
    model.network.train()
    return made


def _answer(model: TunableModel, example: Example, encoder: Encoder, limit: int) -> Sample:
    prompt, expected = prompt_and_answer(example)
    network: Any = model.network
    config = _transformers.GenerationConfig(
        max_new_tokens=min(limit, _room(network.config, 0 if example.source_ids else len(prompt))),
        do_sample=False,
        use_cache=True,
        eos_token_id=sorted(encoder.eos_token_ids),
        pad_token_id=0,
        decoder_start_token_id=getattr(network.config, "decoder_start_token_id", None),
    )
    ids = torch.tensor([prompt], device=model.device)
    output: list[int] = network.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
    )[0].tolist()
    start = 1 if example.source_ids else len(prompt)  # a decoder's output has its start token
    return Sample(
        encoder.decode(prompt)[-_LONGEST_TEXT:],
        encoder.decode(expected)[:_LONGEST_TEXT],
        encoder.decode(output[start:])[:_LONGEST_TEXT],
    )


def _room(config: Any, prompt_tokens: int) -> int:
    """How many tokens the model can write behind the prompt: some have only so many positions."""
    positions: int | None = getattr(config, "max_position_embeddings", None)
    return sys.maxsize if positions is None else positions - prompt_tokens


def prompt_and_answer(example: Example) -> tuple[list[int], list[int]]:
    """What comes before the first labeled token, and the labeled ones from there on. Of a plain
    text, which is all labeled: its first half, or the beginning of that, and what follows."""
    ids = example.token_ids.tolist()
    if example.source_ids:
        return example.source_ids.tolist(), ids
    if all(example.labeled[1:]):
        half = min(len(ids) // 2, _LONGEST_BEGINNING)
        return ids[:half], ids[half:]
    start = max(1, example.labeled.index(1))
    answer = takewhile(lambda i: example.labeled[i], range(start, len(ids)))
    return ids[:start], [ids[i] for i in answer]
