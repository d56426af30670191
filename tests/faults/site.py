"""A platform whose programs are in the hands of the test: it starts, stops, kills and freezes each
of them, and nothing is started again by itself."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import psutil

from anneal.addresses import Addresses
from anneal.health import is_serving
from anneal.transport import WITHOUT_PROXY
from anneal.up.data_dir import DataDir
from anneal.up.platform import TINY_BASE
from anneal.up.ports import HOST, Ports
from anneal.up.programs import MODULES, PYTHON, environments
from services.common.testing.nats import nats_server_path

ROOT = Path(__file__).parents[2]
Disk = tuple[Path, int]
"""A directory, and how many bytes it has room for."""

_MOUNT = 'mount -t tmpfs -o size="$2" anneal "$1" && shift 2 && exec "$@"'
_ON_A_DISK = ("unshare", "--map-root-user", "--mount", "sh", "-c", _MOUNT, "sh")

START_LIMIT_S = 120.0
STOP_LIMIT_S = 30.0
LOOK_EVERY_S = 0.02
FORKS = "engines"
SPINE = ("registry", "dataset", "trainer")
"""The services that a job needs."""


def can_mount() -> bool:
    """Whether a program can be given a disk of its own: see user_namespaces(7)."""
    trial = (*_ON_A_DISK, "/mnt", "4096", "true")
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(trial, check=False, capture_output=True).returncode == 0


def on_disk(disk: Disk, program: Sequence[str]) -> Sequence[str]:
    """The program, what lies in the directory of `disk` being on one of its own."""
    directory, size_bytes = disk
    return (*_ON_A_DISK, str(directory), str(size_bytes), *program)


class Site:
    """Programs by name: `nats`, the `services`, nodes, each called `node…`, and `engines`, the
    process that the nodes' engines are forked from.

    `environment` is for all of them, over what `anneal up` would tell them. What they write goes
    to `directory`/logs.
    """

    def __init__(
        self,
        directory: Path,
        *,
        services: Sequence[str] = SPINE,
        environment: Mapping[str, str] | None = None,
        databases: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.services = tuple(services)
        self._data_dir = DataDir(directory)
        self.ports = Ports.free()
        self._logs = self._data_dir.folder("logs")
        base_models = directory / "base-models.toml"
        base_models.write_text(f'[tiny-base]\npath = "{TINY_BASE}"\n')
        told = environments(self._data_dir, self.ports, base_models, os.environ)
        own = {name: {"ANNEAL_DATABASE_URL": url} for name, url in (databases or {}).items()}
        everywhere = {
            "ANNEAL_SPEED_LIMIT_S": "0",
            "ANNEAL_WARM_ENGINES": "0",  # the forks are quick enough
            "ANNEAL_SELF_TEST_LIMIT_S": "0",
            "ANNEAL_TEST_ENGINE_FORKS": str(self._forks),
            "PYTHONPATH": str(ROOT),
            **(environment or {}),
        }
        self._told = {name: told[name] | everywhere | own.get(name, {}) for name in told}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._write_nats_config()

    @property
    def addresses(self) -> Addresses:
        return self.ports.addresses()

    @property
    def names(self) -> list[str]:
        """Of the programs that run."""
        return [*self._running]

    def database(self, service: str) -> Path:
        """The file of a service on SQLite."""
        return self.directory / "db" / f"{service}.db"

    def start(self, name: str, *, disk: Disk | None = None, **environment: str) -> None:
        """Returns at once. What lies in the directory of `disk` is on one of its own."""
        if name.startswith("node"):
            self.wait_for(self._forks.exists, "engines to fork", START_LIMIT_S)
        program, told = self._program(name)
        if disk is not None:
            program = on_disk(disk, program)
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                program, env=told | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start_all(self, *nodes: str) -> None:
        """Returns when everything serves."""
        for name in ("nats", FORKS, *self.services):
            self.start(name)
        for name in nodes:
            self.start(name)
        self.await_serving(*self.services)

    def restore(self, *nodes: str) -> None:
        """As `start_all`, for what does not run; other nodes than these are stopped."""
        self.tend()
        for name in ("nats", FORKS, *self.services, *nodes):
            if name not in self._running:
                self.start(name)
        for name in set(self._running) - {"nats", FORKS, *self.services, *nodes}:
            self.stop(name)
        self.await_serving(*self.services)

    def await_serving(self, *services: str) -> None:
        for name in services:
            self.wait_for(lambda name=name: self._serves(name), f"{name} to serve", START_LIMIT_S)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._running.items()}

    def engine(self, node: str) -> psutil.Process | None:
        """The engine that trains for a node."""
        work_dir = str(self._work_dir(node))
        with suppress(psutil.Error, KeyError):
            for child in psutil.Process(self.pid(node)).children(recursive=True):
                with suppress(psutil.Error):
                    if work_dir in " ".join(child.cmdline()):
                        return child
        return None

    def tend(self) -> None:
        """Starts again what has ended by itself: a service whose database is away when it starts
        leaves that to whoever started it."""
        for name, process in [*self._running.items()]:
            if process.poll() is not None:
                self.start(name)

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> tuple[int, float]:
        """As an orderly shutdown does: its exit code, and how many seconds it took."""
        began_s = time.monotonic()
        process = self._running.pop(name)
        process.terminate()
        try:
            code = process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        return code, time.monotonic() - began_s

    def one_node(self, name: str) -> None:
        """Whatever a test has left: this node runs, and no other."""
        for other in [one for one in self.names if one.startswith("node") and one != name]:
            self.thaw(other)
            self.kill(other)
        if name not in self._running:
            self.start(name)

    def exit_code(self, name: str, limit_s: float) -> int:
        """Of a program that ends by itself."""
        code = self._running[name].wait(limit_s)
        del self._running[name]
        return code

    def freeze(self, name: str) -> None:
        """The program and its children stand still, as on a host that does."""
        for process in self._family(name):
            process.send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        for process in self._family(name):
            process.send_signal(signal.SIGCONT)

    def log(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text()

    def wait_for(self, condition: Callable[[], bool], what: str, limit_s: float) -> float:
        """Returns how many seconds it took."""
        began_s = time.monotonic()
        while not condition():
            waited_s = time.monotonic() - began_s
            assert waited_s < limit_s, f"waited in vain for {what}: {self._last_words()}"
            time.sleep(LOOK_EVERY_S)
        return time.monotonic() - began_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in reversed(self.names):
            for process in self._family(name):
                with suppress(psutil.Error):
                    process.kill()
            self._running.pop(name).wait()

    def _program(self, name: str) -> tuple[Sequence[str], dict[str, str]]:
        if name == "nats":
            return (nats_server_path(), "-c", str(self._nats_config)), {}
        if name == FORKS:
            self._forks.unlink(missing_ok=True)
            return (*PYTHON, "tests.faults.engine_forks", str(self._forks)), self._told["node"]
        if name.startswith("node"):
            own = {"ANNEAL_NODE_NAME": name, "ANNEAL_WORK_DIR": str(self._work_dir(name))}
            return (*PYTHON, "tests.faults.quick_node"), self._told["node"] | own
        return (*PYTHON, MODULES[name]), self._told[name]

    @property
    def _forks(self) -> Path:
        return self.directory / "engines.socket"

    def _work_dir(self, node: str) -> Path:
        return self.directory / "work" / node

    @property
    def _nats_config(self) -> Path:
        return self.directory / "nats.conf"

    def _write_nats_config(self) -> None:
        store_dir = self._data_dir.folder("nats")
        self._nats_config.write_text(
            f"listen: {HOST}:{self.ports.nats}\n"
            f'jetstream {{ store_dir: "{store_dir}", sync_interval: always }}\n'
        )

    def _serves(self, name: str) -> bool:
        process = self._running[name]
        assert process.poll() is None, f"{name} has ended: {self.log(name)[-2000:]}"
        address = f"{HOST}:{getattr(self.ports, name)}"
        with grpc.insecure_channel(address, (WITHOUT_PROXY,)) as channel:
            return is_serving(channel)

    def _family(self, name: str) -> list[psutil.Process]:
        """The youngest last: who stops a parent first is not seen to stop its child."""
        try:
            leader = psutil.Process(self.pid(name))
            return [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _last_words(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-600:]}" for path in self._logs.iterdir())
