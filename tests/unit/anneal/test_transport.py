"""What a channel repeats by itself, and what it leaves to whoever calls."""

import json
from importlib import import_module
from pathlib import Path

from google.protobuf.descriptor import ServiceDescriptor

import anneal
from anneal.transport import SERVICE_CONFIG, STREAMS


def services() -> list[ServiceDescriptor]:
    root = Path(anneal.__file__).parent
    names = sorted(f"anneal.{path.parent.parent.name}.v1.{path.stem}" for path in files(root))
    modules = [import_module(name) for name in names]
    return [one for module in modules for one in module.DESCRIPTOR.services_by_name.values()]


def files(root: Path) -> list[Path]:
    return list(root.glob("*/v1/*_service_pb2.py"))


def test_no_stream_is_repeated_by_grpc() -> None:
    """One that is, and whose server is killed meanwhile, would never end."""
    methods = [(service.full_name, method) for service in services() for method in service.methods]
    streams = [
        (service, method.name)
        for service, method in methods
        if method.client_streaming or method.server_streaming
    ]
    assert sorted(streams) == sorted(STREAMS)
    everything, apart = json.loads(SERVICE_CONFIG)["methodConfig"]
    assert everything["name"] == [{}]
    assert "retryPolicy" not in apart
    assert [(name["service"], name["method"]) for name in apart["name"]] == [*STREAMS]
