"""What a node is told by its environment."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

_ID_LENGTH = 63


def _host_id() -> str:
    """This host's name as an RFC-1034 id."""
    name = socket.gethostname().lower().split(".")[0]
    allowed = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return f"node-{allowed}"[:_ID_LENGTH].strip("-")


@dataclass(frozen=True)
class NodeConfig:
    """`work_dir` holds the running attempts, `cache_dir` base models and datasets by digest.

    An engine is `engine_processes`, each of `engine_threads`. `engine_grace_s`: how long a
    stopping one may take; `storage_patience_s`: how long an attempt waits for a blob store that
    is away.
    `…_python` is the interpreter in which a tool is installed, for jobs of that backend (none: the
    node's own).
    `speed_limit_s`: how long a claim may wait until the host's speed is timed; 0 does not time it.
    """

    blobs_url: str
    node_name: str = field(default_factory=_host_id)
    trainer_address: str = "127.0.0.1:7402"
    nats_url: str = "nats://127.0.0.1:7422"
    work_dir: Path = Path("anneal-data/node/work")
    cache_dir: Path = Path("anneal-data/node/cache")
    engine_threads: int = 1
    engine_processes: int = 1
    claim_wait_s: float = 20.0
    speed_limit_s: float = 5.0
    unsloth_python: Path | None = None
    axolotl_python: Path | None = None
    engine_grace_s: float = 30.0
    storage_patience_s: float = 300.0
    api_key: str = ""
    tls_ca: Path | None = None
    log_level: str = "info"
