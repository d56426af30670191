"""What this service is told by its environment."""

from dataclasses import dataclass, field
from pathlib import Path

from services.common.server import ServerSettings


@dataclass(frozen=True)
class AbTestConfig:
    """`page_secret` is hex, the same for all replicas and starts. `api_key` is what this service
    shows to the registry and to inference; `tls_ca` signs their certificates."""

    database_url: str
    page_secret: str = ""
    registry_address: str = "127.0.0.1:7403"
    inference_address: str = "127.0.0.1:7404"
    api_key: str = ""
    tls_ca: Path | None = None
    log_level: str = "info"
    server: ServerSettings = field(default_factory=lambda: ServerSettings(listen="127.0.0.1:7405"))
