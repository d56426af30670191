"""What this service is told by its environment."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from services.common.paging import PageTokens
from services.common.process import StartupError
from services.common.server import ServerSettings

_SECRET_BYTES = 32
_log = structlog.get_logger(__name__)


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

    def page_tokens(self) -> PageTokens:
        """Raises StartupError. Without a secret, tokens are good for this process only."""
        if not self.page_secret:
            _log.warning("page_secret.generated", set="ANNEAL_PAGE_SECRET")
            return PageTokens(secrets.token_bytes(_SECRET_BYTES))
        try:
            return PageTokens(bytes.fromhex(self.page_secret))
        except ValueError as error:
            raise StartupError("ANNEAL_PAGE_SECRET must be hex, 16 bytes at least") from error
