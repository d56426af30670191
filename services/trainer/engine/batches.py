"""From examples to what the model is called with.

Three layouts of the same examples, which give the same loss and gradients:

- *padded*: an example a row, padded at the right. There is no attention mask: attention is causal,
  so no token sees the padding behind it, and no padding carries a label.
- *packed*: all examples in one row without padding. Their positions begin anew, by which the model
  keeps each from seeing its neighbours.
- *paired*: for an encoder–decoder, the sources padded with a mask, the targets padded without.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as functional
from torch import Tensor

from services.trainer.engine.examples import Example

IGNORED = -100
"""The target of a position that is no label, as PyTorch's losses know it."""

# oneDNN compiles a kernel for every shape of a product that it meets, and keeps a thousand: batches
# are of few lengths, and the head is run on few numbers of labels.
_LEAST_MULTIPLE, _MOST_MULTIPLE = 8, 64
_PAD_LABELS_TO_MULTIPLE = 64


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """`inputs` are the model's keyword arguments. The labeled tokens, in reading order, are
    `targets` (rows,), and `positions` (rows,) are where in the flattened hidden states each is
    predicted; behind the `labels` of them come rows with the target IGNORED. `tokens` counts what
    is not padding. `layout` made it of the `examples`. `weights` (rows,) say how much the loss
    counts each target, behind the labels 0; None: 1 each."""

    examples: Sequence[Example]
    layout: "Layout"
    inputs: dict[str, Tensor]
    positions: Tensor
    targets: Tensor
    labels: int
    tokens: int
    weights: Tensor | None

    def halves(self) -> tuple["Batch", ...]:
        """Two, each of half the examples; none of a single example."""
        middle = len(self.examples) // 2
        if not middle:
            return ()
        device = self.targets.device
        return tuple(
            self.layout(part, device) for part in (self.examples[:middle], self.examples[middle:])
        )

    def silent(self) -> "Batch":
        """One that is computed alike and counts nothing."""
        targets = torch.full_like(self.targets, IGNORED)
        return replace(self, targets=targets, labels=0, tokens=0, weights=None)


Layout: TypeAlias = Callable[[Sequence[Example], torch.device], Batch]


def padded(examples: Sequence[Example], device: torch.device, most: int = 0) -> Batch:
    """In rows of at most `most` tokens (0: any number), which no example may exceed."""
    token_ids = _rows([example.token_ids for example in examples], most)
    width = token_ids.shape[1]
    starts = [row * width for row in range(len(examples))]
    inputs = {"input_ids": token_ids.to(device)}
    return _batch(examples, partial(padded, most=most), inputs, _labels(examples, starts))


def packed(examples: Sequence[Example], device: torch.device) -> Batch:
    total = sum(map(len, examples))
    width = _padded_length(total)
    token_ids = torch.zeros(1, width, dtype=torch.long)
    position_ids = torch.zeros(1, width, dtype=torch.long)
    starts: list[int] = []
    end = 0
    for example in examples:
        starts.append(end)
        end += len(example)
        token_ids[0, starts[-1] : end] = _tensor(example.token_ids)
        position_ids[0, starts[-1] : end] = torch.arange(len(example))
    position_ids[0, end:] = torch.arange(width - end)  # the padding: one more segment
    inputs = {"input_ids": token_ids.to(device), "position_ids": position_ids.to(device)}
    return _batch(examples, packed, inputs, _labels(examples, starts))


def paired(decoder_start_id: int, most: int = 0) -> Layout:
    """The decoder reads its start token, then the target but for its last token.

    `most` is as that of `padded`.
    """

    def layout(examples: Sequence[Example], device: torch.device) -> Batch:
        sources = _rows([example.source_ids for example in examples], most)
        mask = _rows([[1] * len(example.source_ids) for example in examples], most)
        targets = _rows([example.token_ids for example in examples], most)
        decoder_ids = targets.roll(1, dims=1)
        decoder_ids[:, 0] = decoder_start_id
        lengths = [len(example.token_ids) for example in examples]
        positions = [
            torch.arange(row * targets.shape[1], row * targets.shape[1] + length)
            for row, length in enumerate(lengths)
        ]
        flat = torch.cat(positions)
        weights = _weights(examples, [torch.arange(length) for length in lengths])
        inputs = {
            "input_ids": sources.to(device),
            "attention_mask": mask.to(device),
            "decoder_input_ids": decoder_ids.to(device),
        }
        return _batch(examples, layout, inputs, _Labels(flat, targets.flatten()[flat], weights))

    return layout


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    """Where each labeled token is predicted, its id, and its weight: (labels,) each."""

    positions: Tensor
    targets: Tensor
    weights: Tensor | None


def _batch(
    examples: Sequence[Example], layout: Layout, inputs: dict[str, Tensor], labels: _Labels
) -> Batch:
    """On the device of the inputs."""
    device = inputs["input_ids"].device
    count, weights = len(labels.targets), labels.weights
    padding = (0, -count % _PAD_LABELS_TO_MULTIPLE)
    return Batch(
        examples=examples,
        layout=layout,
        inputs=inputs,
        positions=functional.pad(labels.positions, padding).to(device),
        targets=functional.pad(labels.targets, padding, value=IGNORED).to(device),
        labels=count,
        tokens=sum(map(len, examples)),
        weights=None if weights is None else functional.pad(weights, padding).to(device),
    )


def _labels(examples: Sequence[Example], starts: Sequence[int]) -> _Labels:
    """A label is predicted at the token before it."""
    places: list[Tensor] = []
    positions: list[Tensor] = []
    targets: list[Tensor] = []
    for example, start in zip(examples, starts, strict=True):
        labeled = torch.frombuffer(bytearray(example.labeled), dtype=torch.uint8)
        labeled[0] = 0  # nothing stands before the first token
        where = labeled.nonzero().flatten()
        places.append(where)
        positions.append(where + (start - 1))
        targets.append(_tensor(example.token_ids)[where])
    return _Labels(torch.cat(positions), torch.cat(targets), _weights(examples, places))


def _weights(examples: Sequence[Example], places: Sequence[Tensor]) -> Tensor | None:
    """Of the tokens at these places of the examples (labels,): float32; None if each counts 1."""
    if all(example.weights is None for example in examples):
        return None
    return torch.cat([_weights_at(e, where) for e, where in zip(examples, places, strict=True)])


def _weights_at(example: Example, where: Tensor) -> Tensor:
    if example.weights is None:
        return torch.ones(len(where))
    return torch.frombuffer(example.weights, dtype=torch.float32)[where]


def _rows(sequences: Sequence[Sequence[int]], most: int) -> Tensor:
    """(sequences, length): int64, padded at the right with 0."""
    width = _padded_length(max(map(len, sequences)))
    rows = torch.zeros(len(sequences), min(width, most or width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        rows[row, : len(sequence)] = _tensor(sequence)
    return rows


def _padded_length(length: int) -> int:
    """The next multiple of a power of two that is an eighth to a quarter of it: on average a
    twelfth of padding."""
    multiple = 1 << max(0, length.bit_length() - 3)
    multiple = min(max(multiple, _LEAST_MULTIPLE), _MOST_MULTIPLE)
    return -(-length // multiple) * multiple


def _tensor(sequence: Sequence[int]) -> Tensor:
    return torch.tensor(sequence, dtype=torch.long)
