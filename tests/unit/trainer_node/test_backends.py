"""What a node offers to train with, and what it starts for it."""

import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.trainer.node.backends import Backends
from services.trainer.node.engine import ENGINE


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which interpreters look for packages."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_node_offers_the_engine_and_the_tools_that_its_interpreter_has(packages: Path) -> None:
    assert Backends().installed() == ("builtin",)
    (packages / "axolotl").mkdir()
    (packages / "axolotl" / "__init__.py").write_text("raise RuntimeError('never imported')")
    assert Backends().installed() == ("builtin", "axolotl")
    (packages / "unsloth.py").touch()
    assert Backends().installed() == ("builtin", "unsloth", "axolotl")


def test_a_tool_is_looked_for_in_the_interpreter_that_is_named(packages: Path) -> None:
    python = packages / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={packages}/theirs exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (packages / "theirs" / "unsloth").mkdir(parents=True)
    (packages / "theirs" / "unsloth" / "__init__.py").touch()
    assert Backends(unsloth_python=python).installed() == ("builtin", "unsloth")


def test_an_interpreter_without_its_tool_is_said_so(packages: Path) -> None:
    with capture_logs() as logs:
        found = Backends(axolotl_python=packages / "none").installed()
    assert found == ("builtin",)
    (line,) = logs
    assert (line["event"], line["backend"]) == ("node.backend_missing", "axolotl")
    assert "cannot be run" in line["error"]


def test_each_backend_has_its_program() -> None:
    backends = Backends(axolotl_python=Path("/opt/axolotl/bin/python"))
    assert backends.program("builtin") == ENGINE
    assert backends.program("axolotl")[2:] == (
        "-m",
        "services.trainer.backends",
        "--python",
        "/opt/axolotl/bin/python",
        "axolotl",
    )
    assert sys.executable in backends.program("unsloth")[1:]


def test_a_backend_of_a_newer_service_is_left_to_the_program_to_refuse() -> None:
    assert Backends().program("7")[-2:] == ("services.trainer.backends", "7")
