"""Several processes train one job together."""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.engine.errors import HelperLost, OutOfMemory
from services.trainer.engine.events import Event
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Lora
from services.trainer.engine.plan import parts
from services.trainer.engine.process import ExitCode
from services.trainer.engine.team import RANK, Team, assembled

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
    job = make_job(method=DRY, work_dir=tmp_path / "killed", processes=2)
    killed = start_engine(job)
    saved = killed.read_until("checkpoint", 6)
    killed.read_until("step", 8)
    helper_of(job).kill()
    assert killed.finish() == ExitCode.ERROR
    assert "process 1 of the run was ended by SIGKILL" in killed.events[-1]["message"]

    resumed = start_engine(replace(job, resume_from=Path(saved["path"])))
    assert resumed.finish() == ExitCode.OK
    before, after = losses(killed), losses(resumed)
    assert [*after] == [*range(7, 13)]
    assert {step: after[step] for step in (7, 8)} == {step: before[step] for step in (7, 8)}
    ours, theirs = (weights(one) for one in (job, alone))
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def helper_of(job: Job) -> psutil.Process:
    """The second of a job's two processes, which the first has started."""
    (helper,) = (
        process
        for process in psutil.process_iter()
        if str(job.work_dir.parent) in " ".join(process.cmdline())
        and process.environ().get(RANK) == "1"
    )
    return helper


def losses(engine: Any) -> dict[int, float]:
    """By step."""
    return {event["step"]: event["loss"] for event in engine.events if event["type"] == "step"}


@pytest.mark.parametrize(
    ("ending", "error", "said"),
    [
        ("kill -9 $$", HelperLost, "process 1 of the run was ended by SIGKILL"),
        ("exit 3", HelperLost, "process 1 of the run left with status 3"),
        (f"exit {ExitCode.OUT_OF_MEMORY}", OutOfMemory, "process 1 of the run has no memory left"),
    ],
)
def test_processes_do_not_wait_for_one_that_has_ended(
    ending: str,
    error: type[Exception],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{ending}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(error, match=said), assembled(2, tmp_path / "job.json", tmp_path):
        pytest.fail("the processes cannot have met")


@pytest.fixture
def in_two_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[Team], torch.Tensor | None]], list[torch.Tensor | None]]:
    """Calls a function as each of two processes would; here they are threads that talk by gloo."""
    store = dist.HashStore()
    thread = threading.local()

    def all_reduce(values: torch.Tensor) -> None:
        thread.group.allreduce([values]).wait()

    def both(
        function: Callable[[Team], torch.Tensor | None],
    ) -> list[torch.Tensor | None]:
        def call(rank: int) -> torch.Tensor | None:
            thread.group = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=10))
            return function(Team(rank, 2))

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(call, range(2)))

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    return both


@pytest.mark.parametrize(
    ("gradients", "total"),
    [((1.0, 2.0), 3.0), ((1.0, None), 1.0), ((None, 2.0), 2.0), ((0.0, None), 0.0)],
)
def test_a_gradient_that_one_process_lacks_counts_as_nothing(
    gradients: tuple[float | None, ...], total: float, in_two_processes: Callable[..., list[Any]]
) -> None:
    def summed(team: Team) -> torch.Tensor | None:
        parameter, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        mine = gradients[team.rank]
        parameter.grad = None if mine is None else torch.full((3,), mine)
        other.grad = torch.full((3,), 5.0)
        team.sum_gradients([parameter, other])
        assert other.grad.tolist() == [10.0] * 3
        return parameter.grad

    assert [gradient.tolist() for gradient in in_two_processes(summed)] == [[total] * 3] * 2


def test_a_parameter_that_no_process_has_a_gradient_of_has_none(
    in_two_processes: Callable[..., list[Any]],
) -> None:
    """A zero would let its weights decay."""

    def summed(team: Team) -> torch.Tensor | None:
        idle, used = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        used.grad = torch.ones(3)
        team.sum_gradients([idle, used])
        return idle.grad

    assert in_two_processes(summed) == [None, None]


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
