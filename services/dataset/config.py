"""What this service is told by its environment."""

from dataclasses import dataclass, field
from pathlib import Path

from anneal.transport import Tls
from services.common.server import ServerSettings


@dataclass(frozen=True)
class DatasetConfig:
    """`blobs_url` is `file:///dir`, `s3://bucket/prefix` or another that services.common.blobs
    knows. `page_secret` is hex, the same for all replicas and starts. `spool_dir` holds uploads in
    progress; unset it is the system's directory for temporary files. Without `registry_address` no
    tokens are shown: only the registry knows base models. `api_key` and `tls_ca` are for calls to
    it."""

    database_url: str
    blobs_url: str
    page_secret: str = ""
    spool_dir: Path | None = None
    max_upload_bytes: int = 8 * 1024**3
    registry_address: str = ""
    api_key: str = ""
    tls_ca: Path | None = None
    log_level: str = "info"
    server: ServerSettings = field(default_factory=lambda: ServerSettings(listen="127.0.0.1:7401"))

    @property
    def tls(self) -> Tls | None:
        return Tls(ca_file=self.tls_ca) if self.tls_ca else None
