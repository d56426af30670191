"""A prefix that starts from tokens is, at first, those tokens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from services.tuners.prefix_start import start_from_tokens
from tests.unit.tuners.conftest import logits, tokens


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_prefix_started_from_tokens_says_what_they_would(
    family: str, base: Callable[..., Any], tuned: Callable[..., Any]
) -> None:
    """Once the positions of the others begin behind it."""
    before, after = tokens(5, seed=3), tokens(1, 7, seed=4)
    whole = torch.cat([before.unsqueeze(0), after], dim=1)
    expected = logits(base(family), input_ids=whole)[:, 5:]

    model = tuned("prefix", family, prefix_length=5)
    start_from_tokens(model, before)

    positions = torch.arange(5, 12).unsqueeze(0)
    answered = logits(model, input_ids=after, position_ids=positions, use_cache=False)
    torch.testing.assert_close(answered, expected, atol=1e-5, rtol=1e-4)
