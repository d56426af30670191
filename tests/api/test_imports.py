"""What a process loads: the control planes hold no torch, and the client no server part."""

import subprocess
import sys

import pytest

CONTROL_PLANES = (
    "services.dataset.__main__",
    "services.trainer.control.__main__",
    "services.trainer.node.__main__",
    "services.registry.__main__",
    "services.inference.__main__",
    "services.abtest.__main__",
)
HEAVY = {"torch", "transformers", "peft", "bitsandbytes"}
SERVER_PARTS = {*HEAVY, "services", "sqlalchemy", "sqlmodel", "nats", "pyarrow", "obstore"}


def loaded_by(module: str) -> set[str]:
    """The top-level packages that importing a module loads, as `-X importtime` tells."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {module}"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize("module", CONTROL_PLANES)
def test_a_control_plane_loads_no_torch(module: str) -> None:
    loaded = loaded_by(module)

    assert "grpc" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("module", ["anneal.client", "anneal.cli.root", "anneal.up.platform"])
def test_the_client_loads_no_server_part(module: str) -> None:
    assert not loaded_by(module) & SERVER_PARTS


def test_the_list_above_would_notice_torch() -> None:
    assert "torch" in loaded_by("services.inference.worker.sampling")
