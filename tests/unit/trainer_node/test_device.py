"""What a node finds out about its host, with programs of a few lines in the place of others."""

import asyncio
import sys
import time
from pathlib import Path
from textwrap import dedent

import psutil
import pytest
from structlog.testing import capture_logs

from services.trainer.node.device import Device, Host, cpu_model, host_memory_bytes

CPU = {
    "kind": "cpu",
    "model": "",
    "memory_bytes": 0,
    "bfloat16_flops": 2e11,
    "float32_flops": 1e11,
}
GPU = {**CPU, "kind": "cuda", "model": "NVIDIA H200", "memory_bytes": 150 * 10**9}
GIBIBYTE = 1024**3


def printing(told: object) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import json; print(json.dumps({told!r}))")


def running(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", dedent(program))


def children() -> set[int]:
    """The ids of this process's; other tests may have left some behind."""
    return {child.pid for child in psutil.Process().children()}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A driver's program on the PATH, which lists two GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA A100, SXM4-40GB, 40960'\necho 'Other, 1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:       16777216 kB\nMemFree:        1 kB\n"}


def test_the_memory_is_all_of_the_hosts_where_nothing_limits_it(tmp_path: Path) -> None:
    assert host_memory_bytes(tree(tmp_path, MEMINFO)) == 16 * GIBIBYTE


@pytest.mark.parametrize(
    "group",
    [
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{GIBIBYTE}\n"},
        {
            "proc/self/cgroup": "0::/jobs/one\n",
            "sys/fs/cgroup/memory.max": "max\n",
            "sys/fs/cgroup/jobs/memory.max": f"{GIBIBYTE}\n",
            "sys/fs/cgroup/jobs/one/memory.max": f"{2 * GIBIBYTE}\n",
        },
        {  # of a container, whose group has its path on the host
            "proc/self/cgroup": "0::/kubepods/pod1/c1\n",
            "sys/fs/cgroup/memory.max": f"{GIBIBYTE}\n",
        },
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/x\n3:memory:/docker/c1\n",
            "sys/fs/cgroup/memory/docker/c1/memory.limit_in_bytes": f"{GIBIBYTE}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    ],
    ids=["root", "nested", "container", "version 1"],
)
def test_the_least_limit_of_a_control_group_counts(tmp_path: Path, group: dict[str, str]) -> None:
    assert host_memory_bytes(tree(tmp_path, MEMINFO | group)) == GIBIBYTE


def test_a_group_that_may_take_more_than_there_is_limits_nothing(tmp_path: Path) -> None:
    group = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{99 * GIBIBYTE}\n"}
    assert host_memory_bytes(tree(tmp_path, MEMINFO | group)) == 16 * GIBIBYTE


def test_a_processor_has_the_name_that_the_kernel_gives_it(tmp_path: Path) -> None:
    told = "processor\t: 0\nmodel name\t: A Processor  @ 2 GHz\nprocessor\t: 1\nmodel name\t: B\n"
    assert cpu_model(tree(tmp_path / "x86", {"proc/cpuinfo": told})) == "A Processor  @ 2 GHz"
    nameless = cpu_model(tree(tmp_path / "arm", {"proc/cpuinfo": "processor\t: 0\n"}))
    assert nameless
    assert "\n" not in nameless


@pytest.mark.usefixtures("no_gpu")
async def test_a_host_without_a_gpu_trains_on_its_processor() -> None:
    device = await Host(1, 20, printing(CPU)).device()

    assert device == Device("cpu", cpu_model(), host_memory_bytes(), 2e11, 1e11)


@pytest.mark.usefixtures("no_gpu")
async def test_a_gpu_that_the_child_computed_on_is_the_device() -> None:
    assert await Host(1, 20, printing(GPU)).device() == Device(**GPU)


@pytest.mark.usefixtures("a_gpu")
async def test_a_gpu_that_the_child_cannot_use_is_not_the_device() -> None:
    assert (await Host(1, 20, printing(CPU)).device()).kind == "cpu"


@pytest.mark.usefixtures("no_gpu")
async def test_the_child_is_told_the_threads_and_asked_once(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    program = running(
        f"""
        import json, sys
        open({str(asked)!r}, "a").write(sys.argv[1] + ";")
        print(json.dumps({CPU!r}))
        """
    )
    host = Host(6, 20, program)

    assert await host.device() == await host.device()
    assert asked.read_text() == "6;"


FAILING = {
    "crashes": (running("raise SystemExit('no torch here')"), "left with status 1: no torch here"),
    "is garbled": (running("print('hello')"), "no measurement: hello"),
    "is mad": (printing({**CPU, "float32_flops": -1}), "no measurement"),
    "is silent": (running("pass"), "no measurement"),
    "is missing": (("/nowhere/python",), "No such file"),
}


@pytest.mark.parametrize(("program", "why"), FAILING.values(), ids=FAILING)
@pytest.mark.usefixtures("a_gpu")
async def test_without_a_measurement_the_driver_tells_the_device_and_the_log_says_why(
    program: tuple[str, ...], why: str
) -> None:
    with capture_logs() as logs:
        device = await Host(1, 20, program).device()

    assert device == Device("cuda", "NVIDIA A100, SXM4-40GB", 40 * GIBIBYTE)
    (log,) = logs
    assert log["event"] == "node.speed_unknown"
    assert why in log["error"]


@pytest.mark.parametrize("answer", ["exit 9", "echo", "echo 'A GPU, [N/A]'"])
async def test_a_driver_that_fails_leaves_the_processor(a_gpu: Path, answer: str) -> None:
    a_gpu.write_text(f"#!/bin/sh\n{answer}\n")

    with capture_logs() as logs:
        device = await Host(1, speed_limit_s=0).device()

    assert device == Device("cpu", cpu_model(), host_memory_bytes())
    assert [log["event"] for log in logs] == ["node.gpu_unknown"]


@pytest.mark.usefixtures("no_gpu")
async def test_a_measurement_is_tried_three_times_and_then_given_up() -> None:
    host = Host(1, 20, running("raise SystemExit(1)"))

    with capture_logs() as logs:
        for _ in range(5):
            assert (await host.device()).float32_flops == 0

    assert [log["tries_left"] for log in logs] == [2, 1, 0]


@pytest.mark.usefixtures("no_gpu")
async def test_a_later_try_gives_what_the_first_could_not(tmp_path: Path) -> None:
    been_here = tmp_path / "been-here"
    program = running(
        f"""
        import json, pathlib
        place = pathlib.Path({str(been_here)!r})
        if not place.exists():
            place.touch()
            raise SystemExit("cold")
        print(json.dumps({CPU!r}))
        """
    )
    host = Host(1, 20, program)

    assert [(await host.device()).float32_flops for _ in range(3)] == [0, 1e11, 1e11]


@pytest.mark.usefixtures("no_gpu")
async def test_a_slow_measurement_is_ended_at_its_limit() -> None:
    began, others = time.monotonic(), children()
    with capture_logs() as logs:
        device = await Host(1, 0.3, running("import time; time.sleep(60)")).device()

    assert device.float32_flops == 0
    assert "within 0.3 s" in logs[0]["error"]
    assert time.monotonic() - began < 5
    assert children() == others


@pytest.mark.usefixtures("no_gpu")
async def test_a_node_that_is_stopped_meanwhile_leaves_no_child() -> None:
    others = children()
    measuring = asyncio.create_task(Host(1, 60, running("import time; time.sleep(60)")).device())
    while children() == others:
        await asyncio.sleep(0.01)

    measuring.cancel()
    await asyncio.wait({measuring})

    assert measuring.cancelled()
    assert children() == others
