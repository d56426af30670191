"""What becomes of conversations that are too long for an encoder–decoder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.chat.pairs import PairEncoder
from services.trainer.engine.errors import InvalidData
from services.trainer.engine.examples import Examples, load_examples
from services.trainer.engine.job import Job

LIMIT = 40


@pytest.fixture
def load(
    base_model: Path,
    make_job: Callable[..., Job],
    write_dataset: Callable[[Sequence[Any]], Path],
) -> Callable[[str], Examples]:
    """Loads a short conversation, and one whose second answer lies beyond the limit."""
    short = [_turn("user", "Hi"), _turn("assistant", "Yes.")]
    long = [*short, _turn("user", "very " * LIMIT), _turn("assistant", "No.")]
    path = write_dataset([short, long])

    def loaded(long_examples: str) -> Examples:
        training = make_job({"long_examples": long_examples, "validation_fraction": 0.0}).training
        return load_examples(path, PairEncoder.load(base_model), LIMIT, training, seed=3)

    return loaded


def test_a_lost_answer_is_counted_where_long_examples_are_cut(
    load: Callable[[str], Examples],
) -> None:
    loaded = load("truncate")

    assert [example.row for example in loaded.training] == [0, 1]
    assert all(len(example.token_ids) for example in loaded.training)
    assert (loaded.skipped, loaded.truncated, loaded.dropped) == (1, 0, 0)


def test_a_conversation_with_a_lost_answer_is_left_out_where_long_ones_are(
    load: Callable[[str], Examples],
) -> None:
    loaded = load("drop")

    assert [example.row for example in loaded.training] == [0]
    assert (loaded.skipped, loaded.truncated, loaded.dropped) == (0, 0, 1)


def test_a_conversation_with_a_lost_answer_is_refused_where_long_ones_are(
    load: Callable[[str], Examples],
) -> None:
    with pytest.raises(InvalidData, match=f"1 examples are longer than {LIMIT} tokens: rows 1"):
        load("refuse")


def _turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content, "train": role == "assistant"}
