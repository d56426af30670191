"""What can be turned off changes no loss and no update; and it is really off then.

The gains inside the network are looked at closer in tests/unit/engine_fast.
"""

import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from services.trainer.engine.events import Event, StepDone
from services.trainer.engine.fast import Switches
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Lora

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]
EVERY = [field.name for field in fields(Switches)]
OUTSIDE = ["group_by_length", "prefetch", "fused_adamw", "labeled_logits"]
WHOLE = 36
"""All examples of the job that are not held out."""


@pytest.fixture
def without(make_job: MakeJob, tmp_path: Any) -> Callable[..., Job]:
    """Three steps of all examples, so that they are the same in whichever order, without these
    gains and without dropout."""

    def job(*names: str) -> Job:
        return make_job(
            {"max_steps": 3, "batch_size": WHOLE, "evaluate_every": 0, "checkpoint_every": 0},
            method=Lora(rank=4, alpha=8.0, dropout=0.0),
            switches=Switches(**dict.fromkeys(names, False)),
            work_dir=tmp_path / "_".join(("without", *names)),
        )

    return job


def steps(events: list[Event]) -> list[tuple[float, float]]:
    """The loss and the norm of the gradients of each."""
    return [(e.loss, e.gradient_norm) for e in events if isinstance(e, StepDone)]


def adapter(job: Job) -> dict[str, Tensor]:
    return safetensors.torch.load_file(job.artifacts_dir / "adapter_model.safetensors")


@pytest.mark.parametrize("off", [*([name] for name in OUTSIDE), EVERY], ids=[*OUTSIDE, "all"])
def test_without_a_gain_a_run_gives_the_same(
    without: Callable[..., Job], run_here: RunHere, off: list[str]
) -> None:
    usual, slower = without(), without(*off)
    wanted, found = steps(run_here(usual)), steps(run_here(slower))
    assert len(found) == 3
    assert sum(found, ()) == pytest.approx(sum(wanted, ()), rel=1e-4)
    flat = [torch.cat([t.flatten() for t in adapter(job).values()]) for job in (slower, usual)]
    assert (flat[0] - flat[1]).norm() < 1e-3 * flat[1].norm()


@pytest.fixture
def head_rows() -> Any:
    """How many rows of logits each call of a language-model head has made in training."""
    rows: list[int] = []

    def note(module: nn.Module, _inputs: Any, logits: Any) -> None:
        if isinstance(module, nn.Linear) and module.out_features == 320 and module.training:
            rows.append(logits.shape[:-1].numel())

    hook = nn.modules.module.register_module_forward_hook(note)
    yield rows
    hook.remove()


@pytest.mark.parametrize("packing", [False, True])
def test_the_head_runs_at_every_token_if_that_is_wanted(
    without: Callable[..., Job], run_here: RunHere, head_rows: list[int], packing: bool
) -> None:
    job = without("labeled_logits")
    job = replace(job, training=replace(job.training, packing=packing, max_steps=1))
    (step,) = [e for e in run_here(job) if isinstance(e, StepDone)]
    assert head_rows[-1] >= step.tokens

    run_here(replace(job, switches=Switches(), work_dir=job.work_dir / "usual"))
    assert head_rows[-1] < step.tokens


def test_examples_are_grouped_by_length_only_if_that_is_wanted(
    without: Callable[..., Job], run_here: RunHere
) -> None:
    tokens: list[list[int]] = []
    for job in (without(), without("group_by_length")):
        events = run_here(replace(job, training=replace(job.training, batch_size=18, max_steps=2)))
        tokens.append([event.tokens for event in events if isinstance(event, StepDone)])
    grouped, as_they_come = tokens
    assert sum(grouped) == sum(as_they_come)
    assert max(grouped) - min(grouped) > 2 * (max(as_they_come) - min(as_they_come))


@pytest.mark.parametrize("prefetch", [True, False])
def test_batches_are_made_ahead_only_if_that_is_wanted(
    without: Callable[..., Job], run_here: RunHere, prefetch: bool, monkeypatch: Any
) -> None:
    started: list[str] = []
    start = threading.Thread.start
    monkeypatch.setattr(
        threading.Thread, "start", lambda thread: (started.append(thread.name), start(thread))[1]
    )
    run_here(without() if prefetch else without("prefetch"))
    assert any(name.startswith("batches") for name in started) is prefetch


@pytest.mark.parametrize("fused", [True, False])
def test_the_optimizer_is_fused_only_if_that_is_wanted(
    without: Callable[..., Job], run_here: RunHere, fused: bool, monkeypatch: Any
) -> None:
    made: list[dict[str, Any]] = []
    whole = torch.optim.AdamW.__init__

    def note(self: Any, *arguments: Any, **settings: Any) -> None:
        made.append(settings)
        whole(self, *arguments, **settings)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", note)
    run_here(without() if fused else without("fused_adamw"))
    assert [(settings["fused"], settings["foreach"]) for settings in made] == [(fused, not fused)]
