"""What the trainer's control plane is told by its environment."""

from dataclasses import dataclass, field
from pathlib import Path

from anneal.transport import Tls
from services.common.server import ServerSettings
from services.trainer.control.domain.node_leases import LeasePolicy


@dataclass(frozen=True)
class ControlConfig:
    """`page_secret` is hex, the same for all replicas and starts. `api_key` and `tls_ca` are for
    calls to the dataset service and the registry. `blobs_url` is the nodes', where checkpoints are
    removed that nobody needs any more. `nats_url` may be several, of one cluster, with commas
    between them; `nats_replicas`: how many of its servers keep the stream."""

    database_url: str
    blobs_url: str
    nats_url: str = "nats://127.0.0.1:4222"
    nats_replicas: int = 1
    dataset_address: str = "127.0.0.1:7401"
    registry_address: str = "127.0.0.1:7403"
    page_secret: str = ""
    api_key: str = ""
    tls_ca: Path | None = None
    watch_poll_s: float = 1.0
    log_level: str = "info"
    leases: LeasePolicy = field(default_factory=LeasePolicy)
    server: ServerSettings = field(default_factory=lambda: ServerSettings(listen="127.0.0.1:7402"))

    @property
    def tls(self) -> Tls | None:
        return Tls(ca_file=self.tls_ca) if self.tls_ca else None
