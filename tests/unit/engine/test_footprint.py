"""What a run tells of itself when it has finished: its peak memory and its speed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from services.trainer.engine.events import Event, Finished, StepDone
from services.trainer.engine.footprint import peak_memory_bytes, resident_bytes
from services.trainer.engine.job import Job

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]
CPU = torch.device("cpu")
BATCH = 2**20  # more than the kernel lets its counters of memory be behind

linux_only = pytest.mark.skipif(
    not Path("/proc/self/status").exists(),
    reason="what is resident now is read from /proc, which no other system has",
)


@linux_only
def test_the_peak_keeps_what_is_gone() -> None:
    before = peak_memory_bytes(CPU)
    held = torch.ones(before // 4)  # so many bytes
    assert resident_bytes() > before // 2
    largest = peak_memory_bytes(CPU)
    assert largest >= before
    del held
    assert peak_memory_bytes(CPU) >= largest - BATCH


@linux_only
def test_a_finished_run_tells_its_peak_and_its_speed(make_job: MakeJob, run_here: RunHere) -> None:
    events = run_here(make_job())
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert resident_bytes() // 2 < finished.peak_memory_bytes <= peak_memory_bytes(CPU)
    steps = [event for event in events if isinstance(event, StepDone)]
    tokens, seconds = sum(s.tokens for s in steps), sum(s.step_seconds for s in steps)
    assert finished.tokens_per_second == pytest.approx(tokens / seconds)


def test_a_run_with_nothing_left_to_do_tells_no_speed(make_job: MakeJob, run_here: RunHere) -> None:
    job = make_job()
    run_here(job)
    events = run_here(make_job(resume_from=job.checkpoints_dir / "step-00000012"))
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.tokens_per_second is None
    assert finished.peak_memory_bytes > 0
