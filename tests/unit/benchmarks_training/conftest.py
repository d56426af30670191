"""A workload small enough to be written in a test, and results to summarize."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training.results import Measurement
from benchmarks.training.sizes import Size
from benchmarks.training.workload import Workload, write_workload

TINY = Size("tiny", 16, 32, 2, 2, examples_a_step=4, tokens_a_step=400, packed_rows_a_step=1)


@pytest.fixture(scope="session")
def tiny() -> Size:
    return TINY


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """64 examples and a base model of size tiny."""
    return write_workload(tmp_path_factory.mktemp("workload"), [TINY], count=64)


@pytest.fixture
def measurement() -> Callable[..., Measurement]:
    """A run at 100 tokens a second of 1 MFLOP each, on cores of 1 GFLOP/s; `fields` differ."""
    usual = Measurement(
        variant="anneal",
        size="14m",
        threads=2,
        round=0,
        steps=10,
        tokens=1000,
        wall_s=10.0,
        cpu_s=20.0,
        median_step_tokens_per_s=100.0,
        peak_rss_bytes=2**20,
        losses=[9.0, 8.0],
        flops_per_token=1e6,
        peak_gflops=1.0,
        load=0.0,
    )

    def make(**fields: Any) -> Measurement:
        return replace(usual, **fields)

    return make


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "side.log"
