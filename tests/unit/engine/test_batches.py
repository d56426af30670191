"""How wide the rows of a batch are."""

from array import array

import pytest
import torch

from services.trainer.engine.batches import padded, paired
from services.trainer.engine.examples import Example

CPU = torch.device("cpu")


def example(length: int, source: int = 0) -> Example:
    return Example(array("i", [1] * length), b"\1" * length, array("i", [1] * source))


def width(length: int, most: int = 0) -> int:
    return padded([example(3), example(length)], CPU, most).inputs["input_ids"].shape[1]


def test_rows_are_of_few_widths_with_little_padding() -> None:
    widths = {length: width(length) for length in range(1, 1025)}
    assert all(length <= padded_to for length, padded_to in widths.items())
    assert all(padded_to < 1.25 * length for length, padded_to in widths.items() if length > 32)
    assert sum(widths.values()) < 1.06 * sum(widths)
    assert len(set(widths.values())) == 28


@pytest.mark.parametrize(
    ("length", "most", "wide"), [(97, 100, 100), (100, 100, 100), (97, 0, 112)]
)
def test_no_row_goes_beyond_what_an_example_may_have(length: int, most: int, wide: int) -> None:
    """A model of so many positions has none for the padding behind them."""
    assert width(length, most) == wide
    halves = padded([example(length), example(length)], CPU, most).halves()
    assert [half.inputs["input_ids"].shape[1] for half in halves] == [wide, wide]


def test_neither_does_a_source_nor_a_target() -> None:
    inputs = paired(0, 100)([example(1, 99), example(97, 2)], CPU).inputs
    assert inputs["input_ids"].shape[1] == inputs["decoder_input_ids"].shape[1] == 100
