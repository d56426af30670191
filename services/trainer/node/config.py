"""What a node is told by its environment."""

import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from services.trainer.node.backends import BUILTIN
from services.trainer.node.watchdog import Patience

_ID_LENGTH = 63
_MOST_LABELS = 64
_LABEL_WORD = r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?"
_LABEL = re.compile(f"{_LABEL_WORD}={_LABEL_WORD}")


def _host_id() -> str:
    """This host's name as an RFC-1034 id."""
    name = socket.gethostname().lower().split(".")[0]
    allowed = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return f"node-{allowed}"[:_ID_LENGTH].strip("-")


def _require_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError."""
    for number, label in enumerate(labels, start=1):
        if not _LABEL.fullmatch(label):
            raise ValueError(
                f"label {number} must be key=value, each of 1 to 63 letters, digits and ._/- with "
                "a letter or digit at both ends"
            )
    keys = [label.partition("=")[0] for label in labels]
    if len(keys) > _MOST_LABELS or len(set(keys)) < len(keys):
        raise ValueError(f"a key may have one value, and a node {_MOST_LABELS} labels")
    return labels


@dataclass(frozen=True)
class NodeConfig:
    """`work_dir` holds the running attempts, `cache_dir` base models and datasets by digest; what
    is not in use goes when they are more than `cache_limit_gb` (10⁹ bytes; 0: no limit).

    `nats_url` may be several, of one cluster, with commas between them; `nats_replicas`: how many
    of its servers keep the stream.
    `engines` may train side by side, each with GPUs of its own, and `warm_engines` wait with all
    imports behind them (none on a host of several GPUs). An engine is `engine_processes`, each of
    `engine_threads`. `engine_grace_s`: how long a stopping one may take; `storage_patience_s`: how
    long an attempt waits for a blob store that is away.
    An engine that tells nothing for `stall_steps` times its median step, and for `stall_least_s`,
    hangs and is killed; `stall_other_s` counts while it does no step, `stall_tool_s` for other
    backends, which tell less.
    `…_python` is the interpreter in which a tool is installed, for jobs of that backend (none: the
    node's own).
    `labels` are what jobs may require of the node, as `gpu=h200`.
    `self_test_limit_s`: how long a node without work may try which methods work; 0 does not try.
    `speed_limit_s`: how long a claim may wait until the host's speed is timed; 0 does not time it.
    """

    blobs_url: str
    node_name: str = field(default_factory=_host_id)
    trainer_address: str = "127.0.0.1:7402"
    nats_url: str = "nats://127.0.0.1:7422"
    nats_replicas: int = 1
    work_dir: Path = Path("anneal-data/node/work")
    cache_dir: Path = Path("anneal-data/node/cache")
    cache_limit_gb: float = 0.0
    engine_threads: int = 1
    engine_processes: int = 1
    engines: int = 1
    warm_engines: int = 1
    claim_wait_s: float = 20.0
    labels: Annotated[tuple[str, ...], AfterValidator(_require_labels)] = ()
    self_test_limit_s: float = 120.0
    speed_limit_s: float = 5.0
    unsloth_python: Path | None = None
    axolotl_python: Path | None = None
    engine_grace_s: float = 30.0
    stall_steps: float = 20.0
    stall_least_s: float = 60.0
    stall_other_s: float = 1800.0
    stall_tool_s: float = 7200.0
    storage_patience_s: float = 300.0
    api_key: str = ""
    tls_ca: Path | None = None
    log_level: str = "info"

    def labels_by_key(self) -> dict[str, str]:
        return dict(label.split("=") for label in self.labels)

    def patience(self, backend: str) -> Patience:
        if backend == BUILTIN:
            return Patience(self.stall_steps, self.stall_least_s, self.stall_other_s)
        return Patience(self.stall_steps, self.stall_tool_s, self.stall_tool_s)
