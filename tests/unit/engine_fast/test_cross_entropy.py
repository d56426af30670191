"""The loss and its gradients are those of torch."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from services.trainer.engine.batches import IGNORED
from services.trainer.engine.fast import cross_entropy, summed_cross_entropy

LABELS, WIDTH = 70, 16


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def example(vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(LABELS, WIDTH)
    return hidden, torch.randn(vocabulary, WIDTH), torch.randint(0, vocabulary, (LABELS,))


@pytest.mark.parametrize("vocabulary", [3, 300, 9000])
def test_float32_logits_give_the_loss_and_gradient_of_torch(vocabulary: int) -> None:
    hidden, weight, targets = example(vocabulary)
    leaf = (hidden @ weight.t()).requires_grad_()
    wanted = functional.cross_entropy(leaf, targets, reduction="sum")
    (wanted_gradient,) = torch.autograd.grad(wanted * 0.3, leaf)

    found = summed_cross_entropy((leaf * 1).unsqueeze(0).squeeze(0), targets)  # or a view
    (gradient,) = torch.autograd.grad(found * 0.3, leaf)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert relative(gradient, wanted_gradient) < 1e-5


def test_bfloat16_logits_are_summed_in_float32() -> None:
    hidden, weight, targets = example(3000)
    logits = (hidden @ weight.t()).bfloat16()
    leaf = logits.float().requires_grad_()
    wanted = functional.cross_entropy(leaf, targets, reduction="sum")
    (wanted_gradient,) = torch.autograd.grad(wanted, leaf)

    rounded = logits.requires_grad_()
    found = summed_cross_entropy(rounded * 1, targets)
    (gradient,) = torch.autograd.grad(found, rounded)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert relative(gradient.float(), wanted_gradient) < 4e-3


def test_logits_far_apart_give_a_finite_loss() -> None:
    logits = torch.tensor([[300.0, -300.0, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    targets = torch.tensor([1, 1])
    found = summed_cross_entropy(logits * 1, targets)
    assert found.item() == pytest.approx(600.0)
    (gradient,) = torch.autograd.grad(found, logits)
    assert torch.allclose(gradient, torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_a_logit_that_is_not_a_number_makes_a_loss_that_is_none() -> None:
    logits = torch.tensor([[0.0, float("nan")]], requires_grad=True)
    assert summed_cross_entropy(logits * 1, torch.tensor([0])).isnan()


def test_without_gradients_the_logits_stay() -> None:
    hidden, weight, targets = example(300)
    logits = hidden @ weight.t()
    before = logits.clone()
    wanted = functional.cross_entropy(logits, targets, reduction="sum")
    assert summed_cross_entropy(logits, targets).item() == pytest.approx(wanted.item())
    with torch.no_grad():
        summed_cross_entropy(logits.requires_grad_(), targets)
    assert torch.equal(logits, before)


def test_whoever_reads_overwritten_logits_again_is_told() -> None:
    hidden, weight, targets = example(300)
    logits = (hidden.requires_grad_() @ weight.t()).sigmoid()  # its gradient needs its output
    loss = summed_cross_entropy(logits, targets)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)


def test_a_second_backward_pass_is_refused() -> None:
    hidden, weight, targets = example(300)
    loss = summed_cross_entropy(hidden.requires_grad_() @ weight.t(), targets)
    torch.autograd.backward(loss, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)


def test_rows_without_a_label_count_for_nothing() -> None:
    hidden, weight, targets = example(300)
    targets[::3] = IGNORED
    leaf = (hidden @ weight.t()).requires_grad_()
    wanted = functional.cross_entropy(leaf, targets, ignore_index=IGNORED, reduction="sum")
    (wanted_gradient,) = torch.autograd.grad(wanted, leaf)

    assert summed_cross_entropy(leaf.detach(), targets).item() == pytest.approx(wanted.item())
    found = summed_cross_entropy(leaf * 1, targets)
    (gradient,) = torch.autograd.grad(found, leaf)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert relative(gradient, wanted_gradient) < 1e-5
    assert not gradient[::3].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_count_as_much_as_their_weights(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, targets = example(300)
    targets[::3] = IGNORED
    weights = torch.rand(LABELS) * 10
    logits = (hidden @ weight.t()).to(dtype)
    leaf = logits.float().clone().requires_grad_()
    each = functional.cross_entropy(leaf, targets, ignore_index=IGNORED, reduction="none")
    wanted = (each * weights).sum()
    (wanted_gradient,) = torch.autograd.grad(wanted * 0.3, leaf)

    monkeypatch.setattr(cross_entropy, "_CPU_ELEMENTS", 4 * 300)
    kept = summed_cross_entropy(logits, targets, weights)
    rounded = logits.requires_grad_()
    found = summed_cross_entropy(rounded * 1, targets, weights)
    (gradient,) = torch.autograd.grad(found * 0.3, rounded)
    assert kept.item() == found.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert relative(gradient.float(), wanted_gradient) < (1e-5 if dtype is torch.float32 else 5e-3)


def test_no_labels_are_no_loss() -> None:
    hidden, weight, targets = example(300)
    loss = summed_cross_entropy(hidden.requires_grad_()[:0] @ weight.t(), targets[:0])
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert loss.item() == 0
    assert not gradient.any()
