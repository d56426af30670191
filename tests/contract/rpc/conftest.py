"""A real server of echo.proto for each test, and what it logged."""

import io
import json
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_tools import protoc

from services.common import logs
from services.common.server import ServerSettings, running

HERE = Path(__file__).parent
PROTOS = HERE.parents[2] / "protos"
Events = Callable[[], list[dict[str, Any]]]
FAST: dict[str, Any] = {
    "probe_every_s": 0.05,
    "probe_timeout_s": 0.2,
    "drain_s": 0.0,
    "grace_s": 0.5,
}


@pytest.fixture(scope="session")
def stubs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled echo.proto."""
    out = tmp_path_factory.mktemp("stubs")
    well_known = resources.files("grpc_tools") / "_proto"
    includes = [f"-I{HERE}", f"-I{PROTOS}", f"-I{well_known}"]
    argv = ["protoc", *includes, f"--python_out={out}", f"--grpc_python_out={out}", "echo.proto"]
    assert protoc.main(argv) == 0
    return out


@pytest.fixture(scope="session")
def pb(stubs_dir: Path) -> Any:
    """The messages of echo.proto."""
    sys.path[:0] = [str(stubs_dir), str(HERE)]
    return import_module("echo_pb2")


@pytest.fixture(scope="session")
def echo(pb: Any) -> Any:
    """The module echo_service."""
    return import_module("echo_service")


@pytest.fixture
def stub(pb: Any) -> Callable[[grpc.aio.Channel], Any]:
    return import_module("echo_pb2_grpc").EchoServiceStub


@pytest.fixture
def events() -> Iterator[Events]:
    """The events logged so far, as they are written."""
    stream = io.StringIO()
    before = logging.getLogger().handlers
    logs.configure(stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.getLogger().handlers = before
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


Served = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture
def served(echo: Any, stub: Any, events: Events) -> Served:
    """`async with served(servicer) as stub`: a server on a free port and a plain client of it."""

    @asynccontextmanager
    async def serving(
        servicer: Any, settings: dict[str, Any] | None = None, **options: Any
    ) -> AsyncGenerator[Any]:
        service = echo.echo_service(servicer, **options.pop("limits", {}))
        config = ServerSettings(**(FAST | (settings or {})))
        probes = options.pop("probes", {})
        async with (
            running(config, [service], probes, **options) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            yield stub(channel)

    return serving


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Certificate:
    """PEM files of a self-signed certificate for localhost."""

    cert: Path
    key: Path


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    files = Certificate(directory / "cert.pem", directory / "key.pem")
    files.cert.write_bytes(cert.public_bytes(pem))
    files.key.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
