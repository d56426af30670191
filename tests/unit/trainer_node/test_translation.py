"""What the engine says and is told, against the protos and the engine's own reader."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from anneal.trainer.v1 import tuning_job_pb2 as pb
from services.trainer.engine.events import (
    Evaluated,
    Event,
    Failed,
    Finished,
    Relieved,
    Resumed,
    Sample,
    Sampled,
    Started,
    StepDone,
    event_line,
)
from services.trainer.engine.events import LogLine as EngineLogLine
from services.trainer.engine.job import Training, read_job
from services.trainer.engine.methods import Method
from services.trainer.node import translation
from services.trainer.node.lease import Cause, Lease, LocalBase
from tests.unit.trainer_node.test_engine_settings import METHODS, TRAINING

LEASE = Lease(
    job="projects/default/tuningJobs/first",
    uid="0a1b",
    attempt=2,
    duration_s=30,
    dataset_digest="ab" * 32,
    base=LocalBase("cd" * 32),
    seed=-7,
    method={"kind": "lora", "rank": 8, "target_modules": ["q_proj"]},
    training={"epochs": 3.0},
)


def told(event: Event) -> dict[str, Any]:
    """An event as it comes over the pipe."""
    return json.loads(event_line(event, time_s=1_767_225_600.5))


@pytest.mark.parametrize("kind", METHODS)
def test_the_engine_reads_the_job_file_that_the_node_writes(tmp_path: Path, kind: str) -> None:
    lease = replace(LEASE, method=METHODS[kind], training=TRAINING)
    (tmp_path / "data.parquet").touch()
    paths = {
        "base_model_dir": tmp_path,
        "dataset_file": tmp_path / "data.parquet",
        "work_dir": tmp_path / "work",
        "resume_from": None,
    }
    file = tmp_path / "job.json"
    file.write_text(translation.job_file(lease, paths, threads=2, processes=3))
    job = read_job(file)
    assert (job.job, job.seed, job.threads, job.processes) == (LEASE.job, -7, 2, 3)
    assert job.resume_from is None
    assert TypeAdapter(Method).dump_python(job.method, mode="json") == METHODS[kind]
    assert TypeAdapter(Training).dump_python(job.training, mode="json") == TRAINING


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
        ("diverged", Cause.DIVERGED),
        ("error", Cause.ENGINE_ERROR),
    ],
)
def test_each_kind_of_failure_has_its_cause(kind: Any, cause: Cause) -> None:
    failure = translation.failure(told(Failed(kind, "no luck")))
    assert (failure.cause, failure.message) == (cause, "no luck")


def test_answers_keep_what_was_said() -> None:
    sampled = Sampled(6, (Sample("late?", "no", "yes"), Sample("\ud83d", "", "…")))
    message = translation.samples(told(sampled))
    assert message.time.ToMilliseconds() == 1_767_225_600_500
    assert message.samples == pb.Samples(
        step=6,
        samples=[
            pb.Sample(prompt="late?", expected="no", output="yes"),
            pb.Sample(prompt="?", expected="", output="…"),
        ],
    )


def test_an_event_of_long_answers_stays_small() -> None:
    long = "first " + "x" * 100_000 + " last"
    message = translation.samples(told(Sampled(6, (Sample(long, long, long),) * 40)))
    assert len(message.samples.samples) == 16
    assert message.ByteSize() < 200_000
    sample = message.samples.samples[0]
    assert {len(text) for text in (sample.prompt, sample.expected, sample.output)} == {1024}
    assert (sample.prompt[0], sample.prompt[-5:]) == ("…", " last")
    for answer in (sample.expected, sample.output):
        assert (answer[:6], answer[-1]) == ("first ", "…")


def test_a_resumption_keeps_its_proof() -> None:
    event = Resumed(6, "ab" * 32, "ab" * 32, True, ("threads 1 → 2",))
    assert translation.resumed(told(event)).resumed == pb.TrainingResumed(
        step=6,
        checkpoint_digest="ab" * 32,
        restored_digest="ab" * 32,
        exact=True,
        environment_changes=["threads 1 → 2"],
    )


def test_what_memory_forced_a_run_to_is_told_in_figures_and_words() -> None:
    event = Relieved(6, 20, True, "memory ran out")
    assert translation.relieved(told(event)).relieved == pb.TrainingRelieved(
        step=6, micro_batch_tokens=20, recompute=True, message="memory ran out"
    )


def test_a_version_keeps_the_figures_that_there_are() -> None:
    finished = told(Finished(12, 1.5, 1.25, None, ()))
    assert translation.metrics(finished, 1) == {
        "steps": 12,
        "training_loss": 1.5,
        "best_loss": 1.25,
    }
    finished = told(
        Finished(12, 1.5, 1.25, 1.75, (), 0.5, peak_memory_bytes=10**9, tokens_per_second=250.5)
    )
    figures = translation.metrics(finished, 1)
    assert (figures["validation_loss"], figures["token_accuracy"]) == (1.75, 0.5)
    assert (figures["peak_memory_bytes"], figures["tokens_per_second"]) == (1e9, 250.5)


def test_the_sum_of_several_processes_memory_is_no_peak_of_a_device() -> None:
    finished = told(
        Finished(12, 1.5, 1.25, None, (), peak_memory_bytes=10**9, tokens_per_second=250.5)
    )
    figures = translation.metrics(finished, 2)
    assert "peak_memory_bytes" not in figures
    assert figures["tokens_per_second"] == 250.5


def test_a_checkpoint_has_the_held_out_loss_of_its_own_step() -> None:
    evaluated = told(Evaluated(12, 1.75, 0.5, 4, 200, 1.75))
    assert translation.held_out_loss(evaluated, 12) == 1.75
    assert translation.held_out_loss(evaluated, 13) is None
    assert translation.held_out_loss(None, 12) is None


def test_a_log_line_that_no_wire_could_carry_is_made_to_fit() -> None:
    line = translation.log_line(told(EngineLogLine("warning", "half a pair: \ud83d " + "x" * 9000)))
    assert line.log.level == pb.LogLine.LEVEL_WARNING
    assert line.log.message.startswith("half a pair: ? x")
    assert len(line.log.message) == 4096
