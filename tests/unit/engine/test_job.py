"""The job file: what is accepted, and that everything wrong with it is said at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.trainer.engine.errors import InvalidJob
from services.trainer.engine.job import Job, job_json, read_job

Content = dict[str, Any]


@pytest.fixture
def content(make_job: Callable[..., Job]) -> Content:
    return json.loads(job_json(make_job()))


@pytest.fixture
def faults(tmp_path: Path) -> Callable[[Any], dict[str, str]]:
    """The faults of a job file with this content, by field."""

    def read(content: Any) -> dict[str, str]:
        path = tmp_path / "job.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(InvalidJob) as raised:
            read_job(path)
        return {fault.field: fault.message for fault in raised.value.faults}

    return read


def test_a_written_job_reads_back_equal(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job()
    path = tmp_path / "job.json"
    path.write_text(job_json(job))
    assert read_job(path) == job


def test_a_checkpoint_need_not_be_there(make_job: Callable[..., Job], tmp_path: Path) -> None:
    """The one before it may be."""
    job = make_job(resume_from=tmp_path / "step-00000003")
    path = tmp_path / "job.json"
    path.write_text(job_json(job))
    assert read_job(path) == job


def test_an_integer_will_do_where_a_number_is_asked_for(content: Content, tmp_path: Path) -> None:
    content["method"]["alpha"] = 16
    path = tmp_path / "job.json"
    path.write_text(json.dumps(content))
    assert read_job(path).method.alpha == 16.0


def test_every_fault_is_named_at_once(
    content: Content, faults: Callable[[Any], dict[str, str]]
) -> None:
    content["method"] |= {"rank": 0, "dropout": 1.5}
    content["training"] |= {"learning_rate": "fast", "schedule": "zigzag", "momentum": 1}
    content |= {"threads": True, "base_model_dir": "/nowhere/at/all", "seed": 2**63}
    del content["job"]
    assert set(faults(content)) == {
        "job",
        "seed",
        "threads",
        "base_model_dir",
        "method.rank",
        "method.dropout",
        "training.learning_rate",
        "training.schedule",
        "training.momentum",
    }


def test_a_run_needs_a_length(content: Content, faults: Callable[[Any], dict[str, str]]) -> None:
    content["training"] |= {"max_steps": 0, "epochs": 0}
    assert "cannot both be 0" in faults(content)["training"]


def test_infinity_and_nan_are_no_numbers(
    content: Content, faults: Callable[[Any], dict[str, str]]
) -> None:
    content["training"] |= {"epochs": float("inf"), "weight_decay": float("nan")}
    assert set(faults(content)) == {"training.epochs", "training.weight_decay"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"job"'])
def test_a_file_that_is_no_job_is_refused(
    text: str, faults: Callable[[Any], dict[str, str]]
) -> None:
    assert faults(text)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="No such file"):
        read_job(tmp_path / "absent.json")
