"""The engine as the node meets it: a child process with a pipe, signals and an exit code."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.trainer.engine.__main__ import classify
from services.trainer.engine.events import Event
from services.trainer.engine.job import Job, job_json
from services.trainer.engine.process import ExitCode, collector_at_rest

MakeJob = Callable[..., Job]
Start = Callable[[Job | str], Any]
RunHere = Callable[[Job], list[Event]]

LONG = {"max_steps": 40, "checkpoint_every": 7, "evaluate_every": 20}


def adapter(job: Job) -> bytes:
    return (job.artifacts_dir / "adapter_model.safetensors").read_bytes()


def test_a_killed_run_goes_on_to_the_bytes_of_an_undisturbed_one(
    make_job: MakeJob, start_engine: Start, run_here: RunHere, tmp_path: Path
) -> None:
    undisturbed = make_job(LONG, work_dir=tmp_path / "undisturbed")
    run_here(undisturbed)

    killed = start_engine(make_job(LONG))
    killed.read_until("step", 16)
    killed.process.kill()
    assert killed.finish() == -signal.SIGKILL
    saved = [event for event in killed.events if event["type"] == "checkpoint"]

    resumed = start_engine(make_job(LONG, resume_from=Path(saved[-1]["path"])))
    assert resumed.finish() == ExitCode.OK
    assert resumed.events[0]["type"] == "started"
    assert 14 <= resumed.events[0]["start_step"] < 40
    assert resumed.events[-1]["type"] == "finished"
    assert adapter(make_job(LONG)) == adapter(undisturbed)


def test_sigterm_leaves_a_checkpoint_to_go_on_from(
    make_job: MakeJob, start_engine: Start, run_here: RunHere, tmp_path: Path
) -> None:
    settings = {"max_steps": 80, "checkpoint_every": 0, "evaluate_every": 0}
    engine = start_engine(make_job(settings))
    engine.read_until("step", 4)
    engine.process.send_signal(signal.SIGTERM)
    assert engine.finish() == ExitCode.STOPPED
    last = engine.events[-1]
    assert last["type"] == "checkpoint"
    *_, last_step = (event["step"] for event in engine.events if event["type"] == "step")
    assert last["step"] == last_step < 80

    resumed = make_job(settings, resume_from=Path(last["path"]), work_dir=tmp_path / "resumed")
    undisturbed = make_job(settings, work_dir=tmp_path / "undisturbed")
    run_here(resumed)
    run_here(undisturbed)
    assert adapter(resumed) == adapter(undisturbed)


def test_an_invalid_job_file_is_told_in_full(make_job: MakeJob, start_engine: Start) -> None:
    content = json.loads(job_json(make_job()))
    content["seed"] = "seven"
    content["method"]["rank"] = 0
    engine = start_engine(json.dumps(content))
    assert engine.finish() == ExitCode.INVALID
    (failed,) = engine.events
    assert (failed["type"], failed["kind"]) == ("failed", "invalid_job")
    assert "seed:" in failed["message"]
    assert "method.rank:" in failed["message"]


def test_the_engine_dies_with_its_parent(make_job: MakeJob, tmp_path: Path) -> None:
    """The parent is killed, so nobody is left to tell the engine; its pipe stays open here."""
    job_file = tmp_path / "job.json"
    job_file.write_text(job_json(make_job({"max_steps": 100_000, "evaluate_every": 0})))
    program = (
        "import subprocess, sys, time\n"
        "command = [sys.executable, '-m', 'services.trainer.engine', sys.argv[1]]\n"
        "print(subprocess.Popen(command).pid, file=sys.stderr, flush=True)\n"
        "time.sleep(100)\n"
    )
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(job_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=root,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        child = int(parent.stderr.readline())
        assert b'"started"' in parent.stdout.readline()
        parent.kill()
        parent.stdout.read()  # ends when the engine, the last to hold the pipe, is gone
        assert not running(child)


def running(pid: int) -> bool:
    """Whether the process still runs; a zombie that nobody has waited for does not."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def test_an_engine_that_nobody_reads_ends(make_job: MakeJob, start_engine: Start) -> None:
    engine = start_engine(make_job({"max_steps": 100_000, "evaluate_every": 0}))
    engine.read_until("step", 1)
    engine.process.stdout.close()
    assert engine.process.wait(60) == ExitCode.ERROR


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (MemoryError(), "out_of_memory", ExitCode.OUT_OF_MEMORY),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …"),
            "out_of_memory",
            ExitCode.OUT_OF_MEMORY,
        ),
        (RuntimeError("CUDA out of memory. Tried …"), "out_of_memory", ExitCode.OUT_OF_MEMORY),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(…)`"),
            "out_of_memory",
            ExitCode.OUT_OF_MEMORY,
        ),
        (
            RuntimeError("could not create a memory object"),
            "out_of_memory",
            ExitCode.OUT_OF_MEMORY,
        ),
        (RuntimeError("std::bad_alloc"), "out_of_memory", ExitCode.OUT_OF_MEMORY),
        (
            RuntimeError("could not create a primitive"),
            "out_of_memory",
            ExitCode.OUT_OF_MEMORY,
        ),
        (
            RuntimeError("could not create a primitive descriptor for a matmul primitive"),
            "error",
            ExitCode.ERROR,
        ),
        (RuntimeError("shape mismatch"), "error", ExitCode.ERROR),
    ],
)
def test_memory_is_told_apart_from_other_errors(
    error: Exception, kind: str, code: ExitCode
) -> None:
    failed, exit_code = classify(error)
    assert (failed.kind, exit_code) == (kind, code)


def test_the_collector_rests_during_imports_and_goes_on_after_one_that_fails() -> None:
    def fail_to_import() -> None:
        with collector_at_rest():
            assert not gc.isenabled()
            raise ModuleNotFoundError

    with pytest.raises(ModuleNotFoundError):
        fail_to_import()
    assert gc.isenabled()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's tunables")
def test_huge_pages_are_asked_for_in_the_same_process() -> None:
    program = (
        "from services.trainer.engine.process import ask_for_huge_pages; ask_for_huge_pages();"
        "import os; print(os.getpid(), os.environ['GLIBC_TUNABLES'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    child = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    )
    said, _ = child.communicate(timeout=60)
    assert said.split() == [str(child.pid), "glibc.malloc.hugetlb=1"]


def test_tunables_of_the_operator_stay() -> None:
    program = (
        "from services.trainer.engine.process import ask_for_huge_pages; ask_for_huge_pages();"
        "import os; print(os.environ['GLIBC_TUNABLES'])"
    )
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}
    said = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    assert said.strip() == "glibc.malloc.arena_max=2"
