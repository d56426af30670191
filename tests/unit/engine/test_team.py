"""Several processes train one job together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.engine.events import Event
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Lora
from services.trainer.engine.plan import parts
from services.trainer.engine.process import ExitCode

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]
Start = Callable[[Job | str], Any]

DRY = Lora(rank=4, alpha=8.0, dropout=0.0)


def adapter(job: Job) -> Path:
    return job.artifacts_dir / "adapter_model.safetensors"


def weights(job: Job) -> torch.Tensor:
    return torch.cat([t.flatten() for t in safetensors.torch.load_file(adapter(job)).values()])


def test_two_processes_learn_what_one_does_and_go_on_bit_for_bit_after_a_kill(
    make_job: MakeJob, start_engine: Start, run_here: RunHere, tmp_path: Path
) -> None:
    alone = make_job(method=DRY, work_dir=tmp_path / "alone")
    run_here(alone)
    whole = make_job(method=DRY, work_dir=tmp_path / "whole", processes=2)
    engine = start_engine(whole)
    assert engine.finish() == ExitCode.OK
    assert [event["step"] for event in engine.events if event["type"] == "step"] == [*range(1, 13)]
    ours, theirs = (weights(job) for job in (whole, alone))
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()

    killed = make_job(method=DRY, work_dir=tmp_path / "killed", processes=2)
    engine = start_engine(killed)
    saved = engine.read_until("checkpoint", 6)
    engine.process.kill()
    engine.finish()
    resumed = make_job(
        method=DRY, work_dir=tmp_path / "killed", processes=2, resume_from=Path(saved["path"])
    )
    assert start_engine(resumed).finish() == ExitCode.OK
    assert adapter(resumed).read_bytes() == adapter(whole).read_bytes()


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=40).map(sorted),
    st.integers(1, 5),
    st.integers(0, 2000),
)
def test_every_example_is_computed_once_and_within_the_limit(
    lengths: list[int], shares: int, limit: int
) -> None:
    divided = parts(lengths, shares, limit)
    assert len(divided) == shares
    everything = [i for share in divided for run in share for i in run]
    assert everything == list(range(len(lengths)))
    for run in (run for share in divided for run in share):
        assert limit == 0 or len(run) == 1 or lengths[run.stop - 1] * len(run) <= limit


def test_shares_cost_about_the_same() -> None:
    lengths = sorted(20 + (i * 37) % 380 for i in range(64))
    costs = [
        sum(lengths[run.stop - 1] * len(run) for run in share) for share in parts(lengths, 4, 0)
    ]
    assert max(costs) < 1.35 * sum(costs) / 4


@pytest.mark.parametrize("shares", [2, 5])
def test_processes_without_an_example_have_none(shares: int) -> None:
    assert parts([7], shares, 0) == [[range(1)], *[[] for _ in range(shares - 1)]]
