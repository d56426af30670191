"""The program as the node starts it: its faults, its signals, its end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.trainer.backends.__main__ import classify
from services.trainer.backends.errors import (
    ToolDiverged,
    ToolFailed,
    ToolMissing,
    ToolOutOfMemory,
)
from services.trainer.engine.errors import Fault, InvalidData, InvalidJob
from services.trainer.engine.job import Job, job_json
from services.trainer.engine.process import ExitCode
from tests.unit.trainer_backends.conftest import HERE, RECORDED_TRAINING, recorded_lines

ROOT = HERE.parents[2]


@contextmanager
def started(*arguments: str) -> Generator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-m", "services.trainer.backends", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{HERE / 'fakes'}"},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    with started(*arguments) as process:
        events = [json.loads(line) for line in process.stdout or ()]
        return process.wait(60), events


@pytest.fixture
def job_file(make_job: Callable[..., Job], tmp_path: Path) -> str:
    path = tmp_path / "job.json"
    path.write_text(job_json(make_job(RECORDED_TRAINING)))
    return str(path)


def test_a_tool_that_is_not_installed_is_told_before_anything_else(job_file: str) -> None:
    program = subprocess.run(
        [sys.executable, "-m", "services.trainer.backends", "unsloth", job_file],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (event,) = map(json.loads, program.stdout.splitlines())
    assert program.returncode == ExitCode.ERROR
    assert (event["type"], event["kind"]) == ("failed", "error")
    assert event["message"].startswith("unsloth is not installed on this node: ")
    assert event["message"].endswith("has no package unsloth")


def test_an_interpreter_that_is_none_is_said_to_be_none(job_file: str) -> None:
    status, (event,) = ended("axolotl", "--python", "/nowhere/python", job_file)
    assert status == ExitCode.ERROR
    assert (
        "axolotl is not installed on this node: /nowhere/python cannot be run" in event["message"]
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("llamafactory", "job.json"), "there is no backend 'llamafactory'; besides builtin"),
        (("axolotl",), "the following arguments are required: job_file; usage: "),
    ],
)
def test_a_call_that_makes_no_sense_is_a_fault_of_the_job(
    arguments: tuple[str, ...], said: str
) -> None:
    status, (event,) = ended(*arguments)
    assert (status, event["kind"]) == (ExitCode.INVALID, "invalid_job")
    assert said in event["message"]


def test_a_run_to_its_end_is_told_as_the_engine_tells_it(
    axolotl: Callable[..., None], job_file: str
) -> None:
    axolotl(recorded_lines())
    status, events = ended("axolotl", job_file)
    assert status == ExitCode.OK
    kinds = [event["type"] for event in events if event["type"] != "log"]
    assert kinds == ["started", *["step"] * 4, "eval", *["step"] * 2, "eval", "finished"]


def test_a_request_to_stop_ends_the_tool_and_leaves_no_result(
    axolotl: Callable[..., None], job_file: str, tmp_path: Path
) -> None:
    axolotl(recorded_lines(), hangs=True)
    with started("axolotl", job_file) as process:
        read_until_step(process, 3)
        os.killpg(process.pid, signal.SIGTERM)  # as the node does: to the whole group
        assert process.wait(30) == ExitCode.STOPPED
    assert not (tmp_path / "work" / "artifacts").exists()


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (InvalidJob(Fault("method", "no")), "invalid_job", ExitCode.INVALID),
        (InvalidData("no"), "invalid_data", ExitCode.INVALID),
        (ToolOutOfMemory("no"), "out_of_memory", ExitCode.OUT_OF_MEMORY),
        (ToolDiverged("no"), "diverged", ExitCode.DIVERGED),
        (ToolFailed("no"), "error", ExitCode.ERROR),
        (ToolMissing("no"), "error", ExitCode.ERROR),
        (KeyError("no"), "error", ExitCode.ERROR),
    ],
)
def test_an_error_has_the_event_and_the_exit_code_that_the_engine_gives(
    error: Exception, kind: str, code: ExitCode
) -> None:
    failed, told = classify(error)
    assert (failed.kind, told) == (kind, code)


def read_until_step(process: subprocess.Popen[bytes], step: int) -> None:
    for line in process.stdout or ():
        event = json.loads(line)
        if event["type"] == "step" and event["step"] >= step:
            return
    raise AssertionError(f"no step {step}")
