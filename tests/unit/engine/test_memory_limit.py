"""An engine whose memory ends meets an error that it can do something about, not its own end."""

import errno
import json
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.engine.errors import is_out_of_memory
from services.trainer.engine.footprint import data_bytes
from services.trainer.engine.job import Job, job_json
from services.trainer.engine.memory_limit import (
    available_bytes,
    limit_memory,
    share_bytes,
    tensor_files_bytes,
    tighten_memory_limit,
)
from services.trainer.engine.process import ExitCode
from tests.engines import engine
from tests.unit.engine.families import llama

MakeJob = Callable[..., Job]
Write = Callable[[Mapping[str, str]], None]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts data like this")

GB = 1 << 30
MB = 1 << 20
UNLIMITED_V1 = "9223372036854771712"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files of a made-up /proc and /sys/fs/cgroup, of a host with 8 GB to be had."""

    def write(files: Mapping[str, str]) -> None:
        host = {"proc/meminfo": f"MemTotal: {16 * MB} kB\nMemAvailable: {8 * MB} kB\n"}
        for name, content in (host | dict(files)).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)

    return write


def available(tmp_path: Path) -> int:
    return available_bytes(tmp_path / "proc", tmp_path / "cgroup")


@pytest.mark.parametrize("groups", [{"proc/self/cgroup": "0::/\n"}, {}])
def test_without_a_group_the_host_says_what_is_available(
    groups: Mapping[str, str], write: Write, tmp_path: Path
) -> None:
    write(groups)
    assert available(tmp_path) == 8 * GB


def test_what_can_be_swapped_out_is_available_too(write: Write, tmp_path: Path) -> None:
    meminfo = f"MemAvailable: {8 * MB} kB\nHugePages_Total: 0\nSwapFree: {MB} kB\n"
    write({"proc/self/cgroup": "0::/\n", "proc/meminfo": meminfo})
    assert available(tmp_path) == 9 * GB


def test_a_group_is_asked_and_all_around_it(write: Write, tmp_path: Path) -> None:
    write(
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "cgroup/pod/container/memory.max": "max\n",
            "cgroup/pod/memory.max": f"{4 * GB}\n",
            "cgroup/pod/memory.current": f"{3 * GB}\n",
            "cgroup/pod/memory.stat": f"anon 5\ninactive_file {GB}\nactive_file {MB}\n",
        }
    )
    assert available(tmp_path) == 2 * GB


@pytest.mark.parametrize(("limit", "swapped"), [("max", GB), ("0", 0), (str(MB), MB - 4096)])
def test_a_group_swaps_no_more_than_it_may(
    limit: str, swapped: int, write: Write, tmp_path: Path
) -> None:
    write(
        {
            "proc/meminfo": f"MemAvailable: {8 * MB} kB\nSwapFree: {MB} kB\n",
            "proc/self/cgroup": "0::/\n",
            "cgroup/memory.max": f"{GB}\n",
            "cgroup/memory.current": "0\n",
            "cgroup/memory.swap.max": f"{limit}\n",
            "cgroup/memory.swap.current": "4096\n" if limit != "0" else "0\n",
            "cgroup/memory.stat": "anon 0\n",
        }
    )
    assert available(tmp_path) == GB + swapped


def test_groups_of_the_first_version_are_understood(write: Write, tmp_path: Path) -> None:
    """Of the inner one nothing is to be seen, as in a container with its own view."""
    write(
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/a/b\n0::/\n",
            "cgroup/memory/a/memory.limit_in_bytes": f"{2 * GB}\n",
            "cgroup/memory/a/memory.usage_in_bytes": f"{GB}\n",
            "cgroup/memory/a/memory.stat": f"inactive_file 7\ntotal_inactive_file {MB}\n",
            "cgroup/memory/memory.limit_in_bytes": f"{UNLIMITED_V1}\n",
            "cgroup/memory/memory.stat": "cache 0\n",
        }
    )
    assert available(tmp_path) == GB + MB


def test_this_host_can_be_asked() -> None:
    assert 0 < available_bytes() < 1 << 50


def test_processes_share_what_is_available_but_a_margin() -> None:
    assert share_bytes(32 * GB, 1) == 31 * GB - 64 * MB
    assert share_bytes(32 * GB, 4) == (31 * GB - 64 * MB) // 4
    assert share_bytes(-GB, 2) == 0


def test_files_that_loading_maps_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"1234")
    (tmp_path / "b.json").write_bytes(b"12")
    assert tensor_files_bytes(tmp_path, None, tmp_path) == 8


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What limits this process would have been given, with `resource` told apart."""
    given: list[int] = []

    def set_(_: int, values: tuple[int, int]) -> None:
        given.append(values[0])

    monkeypatch.setattr(resource, "setrlimit", set_)
    return given


def test_a_limit_of_somebody_else_is_never_raised(
    limits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (123, resource.RLIM_INFINITY))
    limit_memory(1, 1, 0)
    tighten_memory_limit(1, 1)
    assert limits == [123, 123]


def test_only_a_limited_process_is_limited_anew(limits: list[int]) -> None:
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY
    tighten_memory_limit(1, 1)
    assert limits == []
    limit_memory(1, 2, mapped_bytes=GB)
    assert limits[0] > data_bytes() + GB


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("Failed to allocate a Tensor object"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a matmul"), False),
        (RuntimeError("unable to mmap 80 bytes from file <x>: Cannot allocate memory (12)"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_said_at_the_limit_is_understood(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) is full


@pytest.fixture
def wide_job(make_job: MakeJob, write_dataset: Callable[[Any], Path], tmp_path: Path) -> Job:
    """Its one step has logits of 400 kB a label: together they do not fit where a part does."""
    base = tmp_path / "wide"
    torch.manual_seed(0)
    llama(vocabulary=100_000).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((make_job().base_model_dir / name).read_bytes())
    row = [
        {"role": "user", "content": "Last of red and blue?", "train": False},
        {"role": "assistant", "content": "It is blue.", "train": True},
    ]
    settings = {"max_steps": 1, "batch_size": 200, "validation_fraction": 0.0}
    return make_job(settings, base_model_dir=base, dataset_file=write_dataset([row] * 200))


def test_a_run_that_meets_its_limit_goes_on_in_smaller_parts(wide_job: Job, tmp_path: Path) -> None:
    job_file = tmp_path / "job.json"
    job_file.write_text(job_json(wide_job))
    with engine(job_file, spare_bytes=400 * MB) as running:
        events = [json.loads(line) for line in running.output]
        assert running.exit_code() == ExitCode.OK
    assert any(event["type"] == "relieved" for event in events)
    assert events[-1]["type"] == "finished"
