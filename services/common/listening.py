"""Where a server listens, and whether it may: a free port, and no open door to a network."""

import errno
import socket
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from anneal.transport import is_loopback
from services.common.auth import KeyRing
from services.common.process import StartupError


class PortTaken(StartupError):
    """Somebody else listens there."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"cannot listen on {address}: the port is taken; stop its user or choose another port"
        )


class Unsafe(StartupError):
    """The server would be open to a network."""


@dataclass(frozen=True)
class ServerSettings:
    """How a service is served.

    `listen` is `host:port`; port 0 takes a free one. Any host but loopback demands the TLS files
    and `keys_file` (`[[key]]` tables, see auth.KeyRing). `tls_client_ca_file` demands a client
    certificate signed by it. `reflection` None means on for loopback, off elsewhere.
    `drain_s`: between telling that we stop and refusing calls; `grace_s`: for calls in flight.
    """

    listen: str = "127.0.0.1:0"
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    keys_file: Path | None = None
    reflection: bool | None = None
    default_deadline_s: float = 30.0
    probe_every_s: float = 2.0
    probe_timeout_s: float = 5.0
    drain_s: float = 0.1
    grace_s: float = 5.0

    @property
    def host(self) -> str:
        """The part of `listen` before the port; IPv6 in brackets."""
        return self._split()[0]

    @property
    def port(self) -> int:
        """The part of `listen` behind the host."""
        return self._split()[1]

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)

    @property
    def reflected(self) -> bool:
        """Whether reflection is served."""
        return self.on_loopback if self.reflection is None else self.reflection

    def keys(self) -> KeyRing | None:
        """The keys that callers need; None: there are none, and every caller is local."""
        return None if self.keys_file is None else KeyRing.load(self.keys_file)

    def _split(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise StartupError(f"cannot listen on {self.listen!r}: give host:port")
        return host, int(port)


def require_safe(settings: ServerSettings) -> None:
    """Raises Unsafe unless the server is on loopback or has both TLS and keys."""
    if settings.on_loopback:
        return
    wanted = {
        "a certificate (tls_cert_file, tls_key_file)": settings.tls_cert_file,
        "API keys (keys_file)": settings.keys_file,
    }
    missing = [what for what, file in wanted.items() if file is None]
    if missing:
        raise Unsafe(
            f"listening on {settings.listen}, not on loopback, needs {' and '.join(missing)}"
        )


def bind(server: grpc.aio.Server, settings: ServerSettings) -> str:
    """Takes the port and returns the bound `host:port`. Raises PortTaken or StartupError."""
    _require_free(settings)
    credentials = _credentials(settings)
    try:
        port = (
            server.add_insecure_port(settings.listen)
            if credentials is None
            else server.add_secure_port(settings.listen, credentials)
        )
    except RuntimeError as error:  # all that grpc says when it cannot bind
        raise PortTaken(settings.listen) from error
    return f"{settings.host}:{port}"


def _require_free(settings: ServerSettings) -> None:
    # Asked before gRPC is, which says the reason only in its debug log.
    host = settings.host.strip("[]")
    try:
        found = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(settings.listen) from error
        raise StartupError(f"cannot listen on {settings.listen}: {error.strerror}") from error


def _credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    cert, key, client_ca = (
        settings.tls_cert_file,
        settings.tls_key_file,
        settings.tls_client_ca_file,
    )
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise StartupError("TLS needs both tls_cert_file and tls_key_file")
    try:
        pair = (key.read_bytes(), cert.read_bytes())
        roots = client_ca.read_bytes() if client_ca else None
    except OSError as error:
        raise StartupError(f"cannot read {error.filename}: {error.strerror}") from error
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)
