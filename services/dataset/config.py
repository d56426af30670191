"""What this service is told by its environment."""

from dataclasses import dataclass, field
from pathlib import Path

from services.common.server import ServerSettings


@dataclass(frozen=True)
class DatasetConfig:
    """`blobs_url` is `file:///dir`, `s3://bucket/prefix` or another that services.common.blobs
    knows. `page_secret` is hex, the same for all replicas and starts. `spool_dir` holds uploads in
    progress; unset it is the system's directory for temporary files."""

    database_url: str
    blobs_url: str
    page_secret: str = ""
    spool_dir: Path | None = None
    max_upload_bytes: int = 8 * 1024**3
    log_level: str = "info"
    server: ServerSettings = field(default_factory=lambda: ServerSettings(listen="127.0.0.1:7401"))
