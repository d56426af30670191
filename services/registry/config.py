"""What this service is told by its environment."""

from dataclasses import dataclass, field
from pathlib import Path

from services.common.server import ServerSettings


@dataclass(frozen=True)
class RegistryConfig:
    """`base_models` is the allow-list (adapters/allow_list.py); without it jobs have nothing to
    start from. `page_secret` is hex, the same for all replicas and starts. `nats_url` may be
    several, of one cluster, with commas between them; `nats_replicas`: how many of its servers
    keep the stream."""

    database_url: str
    blobs_url: str
    nats_url: str = "nats://127.0.0.1:4222"
    nats_replicas: int = 1
    base_models: Path | None = None
    page_secret: str = ""
    log_level: str = "info"
    server: ServerSettings = field(default_factory=lambda: ServerSettings(listen="127.0.0.1:7403"))
