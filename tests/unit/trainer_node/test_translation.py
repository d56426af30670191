"""What the engine says and is told, against the protos and the engine's own reader."""

import json
from pathlib import Path
from typing import Any

import pytest

from anneal.trainer.v1 import tuning_job_pb2 as pb
from services.trainer.engine.events import (
    Evaluated,
    Event,
    Failed,
    Finished,
    Started,
    StepDone,
    event_line,
)
from services.trainer.engine.events import LogLine as EngineLogLine
from services.trainer.engine.job import read_job
from services.trainer.node import translation
from services.trainer.node.lease import Cause, Lease, LocalBase

LEASE = Lease(
    job="projects/default/tuningJobs/first",
    attempt=2,
    duration_s=30,
    dataset_digest="ab" * 32,
    base=LocalBase("cd" * 32),
    resume_checkpoint="",
    seed=-7,
    method={"kind": "lora", "rank": 8, "alpha": 16.0, "dropout": 0.1, "target_modules": ["q_proj"]},
    training={
        "max_steps": 0,
        "epochs": 3.0,
        "batch_size": 8,
        "learning_rate": 2e-4,
        "warmup_steps": 10,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "max_sequence_tokens": 512,
        "validation_fraction": 0.1,
        "evaluate_every": 50,
        "checkpoint_every": 50,
    },
)


def told(event: Event) -> dict[str, Any]:
    """An event as it comes over the pipe."""
    return json.loads(event_line(event, time_s=1_767_225_600.5))


def test_the_engine_reads_the_job_file_that_the_node_writes(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").touch()
    paths = {
        "base_model_dir": tmp_path,
        "dataset_file": tmp_path / "data.parquet",
        "work_dir": tmp_path / "work",
        "resume_from": None,
    }
    file = tmp_path / "job.json"
    file.write_text(translation.job_file(LEASE, paths, threads=2))
    job = read_job(file)
    assert (job.job, job.seed, job.threads) == (LEASE.job, -7, 2)
    assert job.resume_from is None
    assert (job.method.rank, job.method.target_modules) == (8, ("q_proj",))
    assert (job.training.epochs, job.training.max_grad_norm) == (3.0, 1.0)


def test_a_step_keeps_every_figure() -> None:
    event = StepDone(
        step=3,
        total_steps=12,
        epoch=0.25,
        loss=1.5,
        best_loss=1.25,
        learning_rate=1e-4,
        gradient_norm=0.75,
        tokens=640,
        tokens_per_second=320.0,
        progress_percent=25.0,
        eta_seconds=4.5,
        step_seconds=2.0,
    )
    message = translation.step(told(event))
    step = message.step
    assert message.time.ToMilliseconds() == 1_767_225_600_500
    expected = pb.TrainingStep(
        step=3,
        total_steps=12,
        epoch=0.25,
        loss=1.5,
        best_loss=1.25,
        learning_rate=1e-4,
        gradient_norm=0.75,
        tokens=640,
        tokens_per_second=320.0,
        progress_percent=25.0,
    )
    expected.eta.FromMilliseconds(4500)
    assert step == expected


def test_the_beginning_and_an_evaluation_keep_their_figures() -> None:
    began = Started(12, 6, 2.0, 36, 4, 0, 0, 100, 1000, 5000, "cpu")
    assert translation.started(told(began)).started == pb.TrainingStarted(
        start_step=6,
        total_steps=12,
        training_examples=36,
        validation_examples=4,
        trainable_parameters=100,
        total_parameters=1000,
    )
    evaluated = Evaluated(6, 1.5, 0.5, 4, 200, 1.25)
    assert translation.evaluation(told(evaluated)).evaluation == pb.Evaluation(
        step=6, loss=1.5, token_accuracy=0.5, examples=4, tokens=200
    )


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("out_of_memory", Cause.OUT_OF_MEMORY),
        ("invalid_job", Cause.INVALID_JOB),
        ("invalid_data", Cause.INVALID_JOB),
        ("error", Cause.ENGINE_ERROR),
    ],
)
def test_each_kind_of_failure_has_its_cause(kind: Any, cause: Cause) -> None:
    failure = translation.failure(told(Failed(kind, "no luck")))
    assert (failure.cause, failure.message) == (cause, "no luck")


def test_a_version_keeps_the_figures_that_there_are() -> None:
    finished = told(Finished(12, 1.5, 1.25, None, ()))
    assert translation.metrics(finished, None) == {
        "steps": 12,
        "training_loss": 1.5,
        "best_loss": 1.25,
    }
    held_out = told(Evaluated(12, 1.75, 0.5, 4, 200, 1.75))
    finished = told(Finished(12, 1.5, 1.25, 1.75, ()))
    figures = translation.metrics(finished, held_out)
    assert (figures["validation_loss"], figures["token_accuracy"]) == (1.75, 0.5)


def test_a_log_line_that_no_wire_could_carry_is_made_to_fit() -> None:
    line = translation.log_line(told(EngineLogLine("warning", "half a pair: \ud83d " + "x" * 9000)))
    assert line.log.level == pb.LogLine.LEVEL_WARNING
    assert line.log.message.startswith("half a pair: ? x")
    assert len(line.log.message) == 4096
