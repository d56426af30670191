"""The loss is that of plain transformers, whatever the batch looks like."""

from array import array
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from services.trainer.engine.batches import IGNORED, packed, padded
from services.trainer.engine.examples import Example
from services.trainer.engine.loader import count_labels
from services.trainer.engine.loss import label_logits, selected_logits, summed_loss

CPU = torch.device("cpu")


@pytest.fixture
def model(base_model: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(base_model)


@pytest.fixture
def examples() -> list[Example]:
    """Five of 7 to 39 tokens with labels in several places, also on first and last tokens."""
    generator = torch.Generator().manual_seed(1)
    made: list[Example] = []
    for length in (7, 8, 16, 25, 39):
        ids = torch.randint(0, 320, (length,), generator=generator)
        labeled = torch.rand(length, generator=generator) < 0.4
        labeled[0] = labeled[-1] = True
        made.append(Example(array("i", ids.tolist()), bytes(labeled.tolist())))
    return made


def ours(model: LlamaForCausalLM, examples: list[Example]) -> torch.Tensor:
    batch = padded(examples, CPU)
    logits = label_logits(model, model.lm_head, batch)
    return summed_loss(logits, batch.targets) / batch.labels


def of_transformers(model: LlamaForCausalLM, examples: list[Example]) -> torch.Tensor:
    longest = max(map(len, examples))
    ids = torch.zeros((len(examples), longest), dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        tokens = torch.tensor(list(example.token_ids))
        labeled = torch.tensor(list(example.labeled), dtype=torch.bool)
        ids[row, : len(example)] = tokens
        mask[row, : len(example)] = 1
        labels[row, : len(example)][labeled] = tokens[labeled]
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def gradients(model: LlamaForCausalLM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_equal_those_of_transformers(
    model: LlamaForCausalLM, examples: list[Example]
) -> None:
    mine, theirs = ours(model, examples), of_transformers(model, examples)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(
        gradients(model, mine), gradients(model, theirs), atol=1e-6, rtol=1e-4
    )


def test_packed_examples_give_the_loss_and_gradients_of_single_ones(
    model: LlamaForCausalLM, examples: list[Example]
) -> None:
    alone = [ours(model, [example]) * count_labels(example) for example in examples]
    mean = torch.stack(alone).sum() / sum(map(count_labels, examples))
    one_by_one = gradients(model, mean)
    for layout in (padded, packed):
        batch = layout(examples, CPU)
        logits = label_logits(model, model.lm_head, batch)
        loss = summed_loss(logits, batch.targets) / batch.labels
        torch.testing.assert_close(loss, mean)
        torch.testing.assert_close(gradients(model, loss), one_by_one, atol=1e-6, rtol=1e-4)


def test_a_packed_example_does_not_see_its_neighbours(
    model: LlamaForCausalLM, examples: list[Example]
) -> None:
    first, *others = examples
    changed = Example(array("i", [1] * len(first)), first.labeled)
    batches = [packed([neighbour, *others], CPU) for neighbour in (first, changed)]
    logits = [label_logits(model, model.lm_head, batch)[: batch.labels] for batch in batches]
    own = count_labels(first)
    torch.testing.assert_close(logits[0][own:], logits[1][own:], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(logits[0][:own], logits[1][:own], atol=1e-2)


@pytest.mark.parametrize("layout", [padded, packed])
def test_a_head_that_runs_everywhere_gives_the_same_loss_and_gradients(
    model: LlamaForCausalLM, examples: list[Example], layout: Any
) -> None:
    batch = layout(examples, CPU)
    found: list[Any] = []
    for logits_of in (label_logits, selected_logits):
        logits = logits_of(model, model.lm_head, batch)
        found.append((logits, gradients(model, summed_loss(logits, batch.targets))))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


def test_padding_changes_nothing(model: LlamaForCausalLM, examples: list[Example]) -> None:
    together, *alone = [padded(some, CPU) for some in (examples, *([e] for e in examples))]
    batched, *single = [
        label_logits(model, model.lm_head, batch)[: batch.labels] for batch in (together, *alone)
    ]
    torch.testing.assert_close(batched, torch.cat(single), atol=1e-5, rtol=1e-4)


def test_heads_of_batches_come_in_few_shapes(examples: list[Example]) -> None:
    for layout in (padded, packed):
        batch = layout(examples, CPU)
        assert batch.labels == sum(map(count_labels, examples))
        assert batch.targets.shape == batch.positions.shape == (64,)
        assert (batch.targets[batch.labels :] == IGNORED).all()
        assert (batch.targets[: batch.labels] != IGNORED).all()


def test_a_batch_counts_its_tokens_without_padding(examples: list[Example]) -> None:
    batch = padded(examples, CPU)
    assert batch.tokens == 7 + 8 + 16 + 25 + 39
    assert batch.inputs["input_ids"].shape == (5, 40)


def test_the_model_is_as_before_after_a_forward_pass(
    model: LlamaForCausalLM, examples: list[Example]
) -> None:
    batch = padded(examples, CPU)
    label_logits(model, model.lm_head, batch)
    assert model(input_ids=batch.inputs["input_ids"]).logits.shape == (5, 40, 320)
