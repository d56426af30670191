"""AdamW whose moments are named, and of parameters without a gradient absent."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from services.trainer.engine.job import Job, Training
from services.trainer.engine.optimizer import Optimizer


@pytest.fixture
def training(make_job: Callable[..., Job]) -> Training:
    return make_job({"weight_decay": 0.5}).training


def parameters() -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.ones(3)) for name in ("idle", "used")}


def step(optimizer: Optimizer, parameter: nn.Parameter) -> None:
    """A gradient for this parameter alone."""
    parameter.grad = torch.tensor([1.0, -2.0, 3.0])
    optimizer.step(0.1)


def test_a_parameter_without_a_gradient_stays_as_it_is(training: Training) -> None:
    held = parameters()
    optimizer = Optimizer(held, training)
    step(optimizer, held["used"])
    assert sorted(optimizer.state()) == ["used/exp_avg", "used/exp_avg_sq", "used/step"]
    assert torch.equal(held["idle"], torch.ones(3))


def test_an_optimizer_goes_on_with_the_moments_that_there_are(training: Training) -> None:
    whole, ours = parameters(), parameters()
    undisturbed = Optimizer(whole, training)
    step(undisturbed, whole["used"])
    state = {name: moment.clone() for name, moment in undisturbed.state().items()}

    resumed = Optimizer(ours, training)
    with torch.no_grad():
        ours["used"].copy_(whole["used"])
    resumed.restore(state)
    for name in ("used", "idle"):
        step(undisturbed, whole[name])
        step(resumed, ours[name])
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_torchs_fused_kernel_gives_the_update_of_the_plain_one(training: Training) -> None:
    ours, plain = parameters(), parameters()
    optimizers = Optimizer(ours, training), Optimizer(plain, training, fused=False)
    for scale in (1.0, -0.3, 2.0):
        for held, optimizer in zip((ours, plain), optimizers, strict=True):
            held["used"].grad = scale * torch.tensor([1.0, -2.0, 3.0])
            optimizer.clip_gradients()
            optimizer.step(0.1)
    torch.testing.assert_close(ours, plain)
    moments = optimizers[0].state()
    torch.testing.assert_close(moments, optimizers[1].state())
    optimizers[1].restore(moments)


def test_a_moment_without_the_other_is_refused(training: Training) -> None:
    optimizer = Optimizer(parameters(), training)
    with pytest.raises(KeyError):
        optimizer.restore({"used/step": torch.ones(())})


def test_no_moments_are_taken_over_as_none(training: Training) -> None:
    optimizer = Optimizer(parameters(), training)
    optimizer.restore({})
    assert optimizer.state() == {}
