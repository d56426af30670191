"""From the dataset file to what the loop trains on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chat.encoder import ChatEncoder
from services.trainer.engine.errors import InvalidData
from services.trainer.engine.examples import Examples, held_out_indices, load_examples
from services.trainer.engine.job import Job

Write = Callable[[Sequence[Any]], Path]
Load = Callable[..., Examples]


@pytest.fixture(scope="module")
def encoder(base_model: Path) -> ChatEncoder:
    return ChatEncoder.load(base_model)


def turn(role: str, content: Any, train: bool = False) -> dict[str, Any]:
    return {"role": role, "content": content, "train": train}


def pair(question: str, answer: str = "Yes.") -> list[dict[str, Any]]:
    return [turn("user", question), turn("assistant", answer, train=True)]


@pytest.fixture
def load(make_job: Callable[..., Job], encoder: ChatEncoder) -> Callable[..., Examples]:
    """Loads a dataset file with at most 64 tokens an example."""

    def loaded(path: Path, seed: int = 3, **training: Any) -> Examples:
        settings = make_job({"validation_fraction": 0.2, **training}).training
        return load_examples(path, encoder, 64, settings, seed)

    return loaded


def test_every_example_is_trained_on_or_held_out(
    write_dataset: Write, load: Load, encoder: ChatEncoder
) -> None:
    loaded = load(write_dataset([pair(f"Question {i}") for i in range(20)]))
    texts = [encoder.decode(e.token_ids) for e in (*loaded.training, *loaded.validation)]
    assert len(loaded.validation) == 4
    assert len(set(texts)) == 20


def test_the_split_depends_on_the_seed_alone(write_dataset: Write, load: Load) -> None:
    path = write_dataset([pair(f"Question {i}") for i in range(20)])
    assert load(path).digest == load(path).digest
    assert load(path).digest != load(path, seed=4).digest


@given(st.integers(0, 500), st.floats(0, 0.5), st.integers(0, 2**32))
def test_something_is_held_out_but_never_everything(count: int, fraction: float, seed: int) -> None:
    held_out = held_out_indices(count, fraction, seed)
    assert held_out <= set(range(count))
    if fraction > 0 and count >= 2:
        assert 1 <= len(held_out) < count
        assert abs(len(held_out) - fraction * count) <= 1
    else:
        assert not held_out


def test_examples_with_nothing_to_learn_are_counted_and_left_out(
    write_dataset: Write, load: Load
) -> None:
    untrained = [turn("user", "Hi"), turn("assistant", "Hello")]
    rows = [pair("Hi"), pair("very " * 100), untrained, pair("Hi", "so " * 100)]
    loaded = load(write_dataset(rows), validation_fraction=0.0)
    assert (len(loaded.training), loaded.skipped, loaded.truncated) == (2, 2, 1)
    assert max(map(len, loaded.training)) == 64


def test_a_dataset_with_nothing_to_learn_is_refused(write_dataset: Write, load: Load) -> None:
    with pytest.raises(InvalidData, match="none of the 1 examples"):
        load(write_dataset([pair("very " * 100)]))
    with pytest.raises(InvalidData, match="none of the 0 examples"):
        load(write_dataset([]))


@pytest.mark.parametrize(
    "row",
    [
        None,
        [None],
        [turn("robot", "Hi")],
        [turn("user", None)],
        [turn("user", "Hi", train=True)],
    ],
)
def test_a_row_that_is_no_conversation_is_refused(
    row: Any, write_dataset: Write, load: Load
) -> None:
    with pytest.raises(InvalidData):
        load(write_dataset([pair("Hi"), row]))


def test_a_file_that_is_no_dataset_is_refused(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "other.parquet"
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(InvalidData, match="not readable as Parquet"):
        load(path)
    pq.write_table(pa.table({"prompt": ["Hi"]}), path)
    with pytest.raises(InvalidData, match="no column messages"):
        load(path)
    pq.write_table(pa.table({"messages": ["Hi"]}), path)
    with pytest.raises(InvalidData, match="role, content and train"):
        load(path)
