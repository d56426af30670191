"""Generates the gRPC stubs and their types into `anneal/<service>/v1/`, from `protos/`.

`buf` checks the protos; protoc, which ships in grpcio-tools, compiles them (docs/adr/0001).
"""

import shutil
import sys
from pathlib import Path

import google.api
import google.rpc
import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GOOGLEAPIS = ROOT / "build" / "googleapis"
OUTPUTS = ("--python_out", "--grpc_python_out", "--mypy_out", "--mypy_grpc_out")


def copy_googleapis() -> None:
    """Lays google/api and google/rpc where buf and protoc find them."""
    for package in (google.api, google.rpc):
        source = Path(next(iter(package.__path__)))
        target = GOOGLEAPIS / "google" / source.name
        target.mkdir(parents=True, exist_ok=True)
        for proto in source.glob("*.proto"):
            shutil.copyfile(proto, target / proto.name)


def remove_stubs() -> None:
    """Removes what an earlier run made, so that a deleted proto leaves no stub behind."""
    for folder in (ROOT / "anneal").glob("*/v1"):
        shutil.rmtree(folder)


def main() -> int:
    copy_googleapis()
    remove_stubs()
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    includes = [f"-I{folder}" for folder in (PROTOS, GOOGLEAPIS, well_known)]
    sources = [str(path.relative_to(PROTOS)) for path in sorted(PROTOS.rglob("*.proto"))]
    return protoc.main(["protoc", *includes, *(f"{out}={ROOT}" for out in OUTPUTS), *sources])


if __name__ == "__main__":
    sys.exit(main())
