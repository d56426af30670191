"""What the inference service is told by its environment."""

from dataclasses import dataclass, field
from pathlib import Path

from services.common.server import ServerSettings


@dataclass(frozen=True)
class InferenceConfig:
    """`cache_dir` holds base models and versions' artifacts by digest. `threads` is a worker's."""

    blobs_url: str
    registry_address: str = "127.0.0.1:7403"
    cache_dir: Path = Path("anneal-data/inference")
    threads: int = 1
    api_key: str = ""
    tls_ca: Path | None = None
    log_level: str = "info"
    server: ServerSettings = field(default_factory=lambda: ServerSettings(listen="127.0.0.1:7404"))
