"""When memory runs out a run goes on from the same step, with the same result."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from services.trainer.engine import run as run_module
from services.trainer.engine import step as step_module
from services.trainer.engine.batches import Batch, Layout, padded
from services.trainer.engine.checkpoint import Progress
from services.trainer.engine.errors import OutOfMemory
from services.trainer.engine.events import Event, Relieved, StepDone
from services.trainer.engine.examples import Example
from services.trainer.engine.job import Job
from services.trainer.engine.loader import Loader
from services.trainer.engine.memory import in_words, relieved, relieved_beforehand
from services.trainer.engine.methods import Lora
from services.trainer.engine.plan import Plan
from services.trainer.engine.preparation import prepare
from services.trainer.engine.team import Team

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

    said = [event.message for event in events if isinstance(event, Relieved)]
    assert said
    assert all("memory ran out: from here on at most" in message for message in said)
    limits = [event.micro_batch_tokens for event in events if isinstance(event, Relieved)]
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] <= 100
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

    assert not any(isinstance(event, Relieved) for event in events)
    name = "adapter_model.safetensors"
    assert (resumed.artifacts_dir / name).read_bytes() == (whole.artifacts_dir / name).read_bytes()


def test_a_single_example_is_computed_twice_before_the_run_gives_up(
    make_job: MakeJob, run_here: RunHere, small_machine: Callable[[int], None]
) -> None:
    small_machine(8)
    with pytest.raises(OutOfMemory, match="a single example of"):
        run_here(make_job())


def test_a_run_that_memory_killed_begins_smaller_from_the_same_checkpoint(
    make_job: MakeJob, run_here: RunHere, small_machine: Callable[[int], None], tmp_path: Path
) -> None:
    whole = make_job(method=DRY, work_dir=tmp_path / "whole")
    undisturbed = run_here(whole)
    checkpoint = whole.checkpoints_dir / "step-00000009"
    losses = {e.step: e.loss for e in undisturbed if isinstance(e, StepDone)}
    resumed = make_job(method=DRY, work_dir=tmp_path / "resumed", resume_from=checkpoint, reliefs=2)
    events = run_here(resumed)

    (relief,) = [event for event in events if isinstance(event, Relieved)]
    again = {e.step: e.loss for e in events if isinstance(e, StepDone)}
    lengths = prepare(whole).plan.lengths
    largest = max(lengths) * whole.training.batch_size
    assert (relief.step, min(again)) == (10, 10)
    assert 0 < relief.micro_batch_tokens <= largest // 4
    assert again == pytest.approx({step: losses[step] for step in again}, rel=1e-4)


def test_reliefs_beforehand_are_those_of_the_largest_batch_and_end_at_the_least() -> None:
    plan = Plan((10, 20, 40, 40, 10), seed=0, batch_size=2)
    by_tokens = Plan((10, 20, 40, 40, 10), seed=0, batch_size=2, batch_tokens=120)

    def limits(of: Plan, mode: str) -> list[tuple[int, bool]]:
        found = [relieved_beforehand(Progress(), of, 1, mode, times) for times in range(4)]
        return [(one.micro_batch_tokens, one.recompute) for one in found]

    assert limits(plan, "off") == [(0, False), (40, False), (40, False), (40, False)]
    assert limits(plan, "auto") == [(0, False), (40, False), (40, True), (40, True)]
    assert limits(by_tokens, "off")[:2] == [(0, False), (60, False)]


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


def test_several_short_examples_are_parted_though_a_single_one_has_more_tokens() -> None:
    lengths = (10, 10, 10, 100)
    progress = Progress(micro_batch_tokens=40)
    recomputing = relieved(progress, lengths, 1, "auto")
    assert recomputing == replace(progress, recompute=True)
    assert relieved(recomputing, lengths, 1, "auto").micro_batch_tokens == 15
    alone = relieved(progress, lengths, 1, "off")
    assert alone == replace(progress, micro_batch_tokens=15)
    with pytest.raises(OutOfMemory, match="a single example of 100 tokens"):
        relieved(alone, lengths, 1, "off")


def test_relief_is_told_in_words() -> None:
    beginning = "memory ran out: from here on "
    parted, recomputing = "at most 20 tokens are computed at a time", "activations are computed"
    assert in_words(Progress(micro_batch_tokens=20)) == beginning + parted
    assert in_words(Progress(recompute=True)).startswith(beginning + recomputing)
    both = in_words(Progress(micro_batch_tokens=20, recompute=True))
    assert both.startswith(f"{beginning}{parted}, and {recomputing}")


FULL = "DefaultCPUAllocator: can't allocate memory: you tried …"


def test_a_share_that_found_no_memory_beside_the_step_before_is_made_again(
    make_job: MakeJob,
) -> None:
    ready = prepare(make_job())

    def only_here(examples: Sequence[Example], device: torch.device) -> Batch:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(FULL)
        return padded(examples, device)

    def shares(layout: Layout) -> list[tuple[int, float, int]]:
        with Loader(ready.examples.training, ready.plan, layout, ready.device, Team()) as loader:
            made = [loader.share(step, 0) for step in (1, 2, 3)]
        return [(len(share.batches), share.weight, share.tokens) for share in made]

    assert shares(only_here) == shares(padded)


def test_a_share_that_there_is_no_memory_for_is_made_smaller(
    make_job: MakeJob, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(examples: Sequence[Example], device: torch.device) -> Batch:
        if len(examples) > 3:
            raise RuntimeError(FULL)
        return padded(examples, device)

    monkeypatch.setattr(run_module, "layout", lambda *_: small)
    events = run_here(make_job({"validation_fraction": 0.0, "max_steps": 3}))
    assert any(isinstance(event, Relieved) for event in events)
    assert [event.step for event in events if isinstance(event, StepDone)] == [1, 2, 3]


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
