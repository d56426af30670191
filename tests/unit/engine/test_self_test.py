"""The program that tells a node which methods its engines can train."""

from pathlib import Path
from typing import get_args

import pytest

from services.trainer.engine import methods, self_test


def test_every_method_is_tried() -> None:
    union, _ = get_args(methods.Method)
    assert set(self_test.METHODS) == {method.kind for method in get_args(union)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    self_test.write_base_model(tmp_path / "base")
    self_test.write_dataset(tmp_path / "texts.parquet")
    return tmp_path


@pytest.mark.parametrize("kind", self_test.METHODS)
def test_a_method_that_works_has_no_fault(kind: str, directory: Path) -> None:
    assert self_test.fault_of(kind, directory, threads=1) == ""


def test_a_method_that_does_not_work_has_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ImportError("bitsandbytes is not installed")

    monkeypatch.setattr("services.trainer.engine.run.load_tunable_model", fail)
    told = self_test.fault_of("qlora", directory, threads=1)
    assert told == "ImportError: bitsandbytes is not installed"
