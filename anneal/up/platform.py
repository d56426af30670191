"""The whole platform on this machine, as a context manager."""

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from anneal.addresses import DEFAULT_DATA_DIR
from anneal.up.data_dir import DataDir
from anneal.up.failures import PlatformError
from anneal.up.logbook import Logbook
from anneal.up.ports import HOST, PORT_BASE, Ports
from anneal.up.programs import (
    MODULES,
    environments,
    nats_program,
    node_program,
    require_installed,
    service_program,
)
from anneal.up.supervisor import Audience, Program, StartFailed, Supervisor

TINY_BASE = Path(__file__).resolve().parents[2] / "examples" / "tiny-base"
"""The base model that comes with the repository; an installed package has none."""


class Silence:
    """An audience that does not care."""

    def line(self, name: str, text: str) -> None: ...

    def ready(self, name: str) -> None: ...

    def died(self, name: str, exit_code: int, pause_s: float) -> None: ...

    def killed(self, name: str) -> None: ...


class Platform:
    """Every service, a training node and the event bus, each in a process of its own.

        with Platform(Path("anneal-data"), ephemeral=True) as platform:
            client = Client(platform.addresses)

    State lives in `data_dir` and is there at the next start. It listens on loopback: on
    `port_base` and the ports after it, or on free ports when `ephemeral`. `base_models` is the
    registry's TOML allow-list; by default it holds the repository's `tiny-base`, if there is one.
    What the programs write goes to `data_dir`/logs. Raises PlatformError when it can not run.
    """

    def __init__(
        self,
        data_dir: Path = Path(DEFAULT_DATA_DIR),
        *,
        port_base: int = PORT_BASE,
        ephemeral: bool = False,
        base_models: Path | None = None,
        audience: Audience | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.data_dir = DataDir(data_dir)
        self.ports = Ports.free() if ephemeral else Ports.from_base(port_base)
        self.addresses = self.ports.addresses()
        self.nats_url = f"nats://{HOST}:{self.ports.nats}"
        self._base_models = base_models
        self._environment = environment
        self._logbook = Logbook(self.data_dir)
        self._audience = audience or Silence()
        self._supervisor: Supervisor | None = None
        self._is_stop_asked = False
        self._held = ExitStack()

    def start(self) -> None:
        """Returns when every service serves, or when `ask_to_stop` was called meanwhile.

        Raises PlatformError, with everything stopped.
        """
        binary = require_installed()
        with ExitStack() as held:
            held.enter_context(self.data_dir.locked())
            self.ports.require_free()
            held.callback(self._logbook.close)
            self._supervisor = Supervisor(self._programs(binary), self)
            if self._is_stop_asked:
                self._supervisor.ask_to_stop()
            held.callback(self._supervisor.stop)
            try:
                self._supervisor.start()
            except StartFailed as error:
                raise PlatformError(str(error), error.last_lines) from error
            held.callback(self.data_dir.withdraw)
            self.data_dir.publish(self.addresses)
            self._held = held.pop_all()

    def wait(self) -> None:
        """Returns after `ask_to_stop`. Raises PlatformError when a program does not stay up."""
        if self._supervisor is None:
            return
        try:
            self._supervisor.wait()
        except StartFailed as error:
            raise PlatformError(str(error), error.last_lines) from error

    def ask_to_stop(self) -> None:
        """Begins to stop everything; asked again, kills what still runs. Safe in a signal."""
        self._is_stop_asked = True
        if self._supervisor is not None:
            self._supervisor.ask_to_stop()

    def stop(self) -> None:
        """Stops everything in order, and returns when nothing is left."""
        self._held.close()

    @property
    def is_complete(self) -> bool:
        """Whether every program has come up: not when it was asked to stop before."""
        return self._supervisor is not None and self._supervisor.is_complete()

    def listening(self) -> dict[str, str]:
        """Returns where each program listens, by name."""
        return {name: f"{HOST}:{port}" for name, port in asdict(self.ports).items()}

    def pids(self) -> dict[str, int]:
        """Returns the process id of each program that runs."""
        return {} if self._supervisor is None else self._supervisor.pids()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def line(self, name: str, text: str) -> None:
        self._logbook.line(name, text)
        self._audience.line(name, text)

    def ready(self, name: str) -> None:
        self._audience.ready(name)

    def died(self, name: str, exit_code: int, pause_s: float) -> None:
        self._audience.died(name, exit_code, pause_s)

    def killed(self, name: str) -> None:
        self._audience.killed(name)

    def _programs(self, nats_server: Path) -> list[Program]:
        told = environments(self.data_dir, self.ports, self._base_models_file(), self._environment)
        services = [
            service_program(name, told[name], getattr(self.ports, name)) for name in MODULES
        ]
        nats = nats_program(nats_server, self.data_dir, self.ports)
        return [nats, *services, node_program(told["node"])]

    def _base_models_file(self) -> Path:
        if self._base_models is not None:
            if not self._base_models.is_file():
                raise PlatformError(f"there is no file {self._base_models} with base models")
            return self._base_models.resolve()
        path = self.data_dir.path / "base-models.toml"
        known = TINY_BASE.is_dir()
        path.write_text(
            f"[tiny-base]\npath = {json.dumps(str(TINY_BASE))}\n" if known else "", "utf-8"
        )
        return path
