"""When memory runs out a run goes on from the same step, with the same result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from services.trainer.engine import step as step_module
from services.trainer.engine.checkpoint import Progress
from services.trainer.engine.errors import OutOfMemory
from services.trainer.engine.events import Event, LogLine, StepDone
from services.trainer.engine.job import Job
from services.trainer.engine.memory import relieved
from services.trainer.engine.methods import Lora

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]

DRY = Lora(rank=4, alpha=8.0, dropout=0.0)


def adapter(job: Job) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(job.artifacts_dir / "adapter_model.safetensors")


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Of all weights together, relative. (A single one may flip: Adam's first steps go by the
    sign of a gradient, and that of a tiny one hangs on the order of a sum.)"""
    first, second = (torch.cat([t.flatten() for t in each.values()]) for each in (ours, theirs))
    return float((first - second).norm() / second.norm())


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the forward pass of training fail like torch's allocator above so many tokens."""

    def limit(tokens: int) -> None:
        whole = step_module.label_logits

        def forward(network: Any, head: Any, batch: Any) -> torch.Tensor:
            if batch.inputs["input_ids"].numel() > tokens:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …")
            return whole(network, head, batch)

        monkeypatch.setattr(step_module, "label_logits", forward)

    return limit


def test_parts_are_halved_until_they_fit_and_the_result_is_the_same(
    make_job: MakeJob, run_here: RunHere, small_machine: Callable[[int], None], tmp_path: Path
) -> None:
    roomy = make_job(method=DRY, work_dir=tmp_path / "roomy")
    undisturbed = run_here(roomy)
    small_machine(100)
    tight = make_job(method=DRY, work_dir=tmp_path / "tight")
    events = run_here(tight)

    said = [event.message for event in events if isinstance(event, LogLine)]
    assert said
    assert all("memory ran out: from here on at most" in message for message in said)
    losses = [[e.loss for e in run if isinstance(e, StepDone)] for run in (undisturbed, events)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert difference(adapter(tight), adapter(roomy)) < 1e-3


def test_what_memory_forced_a_run_to_is_kept_in_its_checkpoints(
    make_job: MakeJob, run_here: RunHere, small_machine: Callable[[int], None], tmp_path: Path
) -> None:
    small_machine(100)
    whole = make_job(work_dir=tmp_path / "whole")
    run_here(whole)
    checkpoint = whole.checkpoints_dir / "step-00000009"
    resumed = make_job(work_dir=tmp_path / "resumed", resume_from=checkpoint)
    events = run_here(resumed)

    assert not any("memory ran out" in e.message for e in events if isinstance(e, LogLine))
    name = "adapter_model.safetensors"
    assert (resumed.artifacts_dir / name).read_bytes() == (whole.artifacts_dir / name).read_bytes()


def test_a_single_example_is_computed_twice_before_the_run_gives_up(
    make_job: MakeJob, run_here: RunHere, small_machine: Callable[[int], None]
) -> None:
    small_machine(8)
    with pytest.raises(OutOfMemory, match="a single example of"):
        run_here(make_job())


def test_relief_comes_in_steps_and_ends() -> None:
    lengths = (10, 20, 40, 40)
    progress, limits = Progress(), []
    while not progress.recompute:
        progress = relieved(progress, lengths, 1, "auto")
        limits.append(progress.micro_batch_tokens)
    assert limits == [80, 40, 20, 20]
    with pytest.raises(OutOfMemory):
        relieved(progress, lengths, 1, "auto")
    with pytest.raises(OutOfMemory):
        relieved(Progress(micro_batch_tokens=20), lengths, 1, "off")


@pytest.mark.parametrize("tokens", [60, 100, 10_000])
def test_gradients_weight_tokens_and_not_parts(
    tokens: int, make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    whole = make_job(method=DRY, work_dir=tmp_path / "whole")
    parted = make_job({"micro_batch_tokens": tokens}, method=DRY, work_dir=tmp_path / "parted")
    losses = [[e.loss for e in run_here(job) if isinstance(e, StepDone)] for job in (whole, parted)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert difference(adapter(parted), adapter(whole)) < 1e-3


def test_activations_computed_twice_give_the_same_adapter(
    make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    kept = make_job({"gradient_checkpointing": "off"}, work_dir=tmp_path / "kept")
    twice = make_job({"gradient_checkpointing": "on"}, work_dir=tmp_path / "twice")
    for job in (kept, twice):
        run_here(job)
    torch.testing.assert_close(adapter(twice), adapter(kept), atol=1e-6, rtol=1e-5)
