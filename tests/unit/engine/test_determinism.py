"""What a run settles before its first product."""

import os
from collections.abc import Iterator

import pytest
import torch

from services.trainer.engine.determinism import prepare_arithmetic
from services.trainer.engine.process import configure_libraries


@pytest.fixture(autouse=True)
def arithmetic_as_before() -> Iterator[None]:
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


def test_denormal_numbers_count_as_zero() -> None:
    torch.set_flush_denormal(False)
    tiny = torch.full((64,), 1e-39)
    assert (tiny * 1.5).all()
    prepare_arithmetic(1)
    assert not (tiny * 1.5).any()


def test_float32_products_keep_their_accuracy() -> None:
    prepare_arithmetic(1)
    left, right = torch.randn(2, 256, 256)
    wanted = left.double() @ right.double()
    error = ((left @ right).double() - wanted).norm() / wanted.norm()
    assert error < 1e-6


def test_kernels_on_a_gpu_are_those_that_repeat_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_arithmetic(1)
    assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    prepare_arithmetic(1)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_cublas_is_told_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    configure_libraries(1)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8"), "as torch wants it"
