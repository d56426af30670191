"""Engine events → the protos that watchers see, and a lease → the engine's job file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp

from anneal.trainer.v1 import tuning_job_pb2 as pb
from services.trainer.node.engine import EngineEvent
from services.trainer.node.lease import Cause, Failure, Lease, StoredCheckpoint

_MESSAGE_LIMIT = 4096
_SAMPLES_LIMIT = 16
_SAMPLE_TEXT_LIMIT = 1024
"""Characters, so that an event is never larger than 200 kB, and mostly far smaller."""
_LEVELS = {
    "info": pb.LogLine.LEVEL_INFO,
    "warning": pb.LogLine.LEVEL_WARNING,
    "error": pb.LogLine.LEVEL_ERROR,
}
_FAILURES = {
    "out_of_memory": Cause.OUT_OF_MEMORY,
    "invalid_job": Cause.INVALID_JOB,
    "invalid_data": Cause.INVALID_JOB,
    "diverged": Cause.DIVERGED,
    "error": Cause.ENGINE_ERROR,
}


def started(event: EngineEvent) -> pb.TuningJobEvent:
    return pb.TuningJobEvent(
        time=_time(event),
        started=pb.TrainingStarted(
            start_step=_int(event, "start_step"),
            total_steps=_int(event, "total_steps"),
            training_examples=_int(event, "training_examples"),
            validation_examples=_int(event, "validation_examples"),
            trainable_parameters=_int(event, "trainable_parameters"),
            total_parameters=_int(event, "total_parameters"),
        ),
    )


def step(event: EngineEvent) -> pb.TuningJobEvent:
    message = pb.TuningJobEvent(
        time=_time(event),
        step=pb.TrainingStep(
            step=_int(event, "step"),
            total_steps=_int(event, "total_steps"),
            epoch=_float(event, "epoch"),
            loss=_float(event, "loss"),
            best_loss=_float(event, "best_loss"),
            learning_rate=_float(event, "learning_rate"),
            gradient_norm=_float(event, "gradient_norm"),
            tokens=_int(event, "tokens"),
            tokens_per_second=_float(event, "tokens_per_second"),
            progress_percent=_float(event, "progress_percent"),
        ),
    )
    message.step.eta.FromMilliseconds(int(1000 * _float(event, "eta_seconds")))
    return message


def evaluation(event: EngineEvent) -> pb.TuningJobEvent:
    return pb.TuningJobEvent(
        time=_time(event),
        evaluation=pb.Evaluation(
            step=_int(event, "step"),
            loss=_float(event, "loss"),
            token_accuracy=_float(event, "token_accuracy"),
            examples=_int(event, "examples"),
            tokens=_int(event, "tokens"),
        ),
    )


def samples(event: EngineEvent) -> pb.TuningJobEvent:
    told = cast(Sequence[EngineEvent], event["samples"])[:_SAMPLES_LIMIT]
    return pb.TuningJobEvent(
        time=_time(event),
        samples=pb.Samples(step=_int(event, "step"), samples=[_sample(one) for one in told]),
    )


def resumed(event: EngineEvent) -> pb.TuningJobEvent:
    return pb.TuningJobEvent(
        time=_time(event),
        resumed=pb.TrainingResumed(
            step=_int(event, "step"),
            checkpoint_digest=_text(event, "checkpoint_digest"),
            restored_digest=_text(event, "restored_digest"),
            exact=event["exact"] is True,
            environment_changes=cast(Sequence[str], event["environment"]),
        ),
    )


def relieved(event: EngineEvent) -> pb.TuningJobEvent:
    return pb.TuningJobEvent(
        time=_time(event),
        relieved=pb.TrainingRelieved(
            step=_int(event, "step"),
            micro_batch_tokens=_int(event, "micro_batch_tokens"),
            recompute=event["recompute"] is True,
            message=_text(event, "message")[:_MESSAGE_LIMIT],
        ),
    )


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint on this host's disk."""

    step: int
    directory: Path


def saved_checkpoint(event: EngineEvent) -> SavedCheckpoint:
    return SavedCheckpoint(_int(event, "step"), Path(str(event["path"])))


def checkpoint(stored: StoredCheckpoint) -> pb.TuningJobEvent:
    return pb.TuningJobEvent(checkpoint=checkpoint_message(stored))


def checkpoint_message(stored: StoredCheckpoint) -> pb.Checkpoint:
    return pb.Checkpoint(
        attempt=stored.attempt,
        step=stored.step,
        manifest_digest=stored.manifest_digest,
        size_bytes=stored.size_bytes,
        validation_loss=stored.validation_loss,
        job_uid=stored.job_uid,
    )


def log_line(event: EngineEvent) -> pb.TuningJobEvent:
    level = _LEVELS[str(event["level"])]
    return pb.TuningJobEvent(
        time=_time(event),
        log=pb.LogLine(level=level, message=_text(event, "message")[:_MESSAGE_LIMIT]),
    )


def warning(message: str) -> pb.TuningJobEvent:
    """What the node itself has to say."""
    level = pb.LogLine.LEVEL_WARNING
    return pb.TuningJobEvent(log=pb.LogLine(level=level, message=message[:_MESSAGE_LIMIT]))


def failure(event: EngineEvent) -> Failure:
    return Failure(_FAILURES[str(event["kind"])], _text(event, "message"))


def held_out_loss(evaluation: EngineEvent | None, step: int) -> float | None:
    """That of `step`, if it was the last to be evaluated."""
    if evaluation is None or evaluation["step"] != step:
        return None
    return _float(evaluation, "loss")


def metrics(finished: EngineEvent, processes: int) -> dict[str, float]:
    """The figures of a run that a model version keeps. Several processes have told the sum of their
    memories, which is the peak of no device."""
    peak_memory_bytes = finished.get("peak_memory_bytes") if processes == 1 else None
    figures = {
        "steps": finished["steps"],
        "training_loss": finished["final_loss"],
        "best_loss": finished["best_loss"],
        "validation_loss": finished["validation_loss"],
        "token_accuracy": finished.get("token_accuracy"),
        "peak_memory_bytes": peak_memory_bytes or None,
        "tokens_per_second": finished.get("tokens_per_second"),
    }
    return {name: float(cast(float, value)) for name, value in figures.items() if value is not None}


def job_file(
    lease: Lease,
    paths: Mapping[str, Path | None],
    threads: int,
    processes: int,
    finish: bool = False,
    reliefs: int = 0,
) -> str:
    """The engine's job file. `paths` are its path fields; one that is None is written as null."""
    return json.dumps(
        {
            "job": lease.job,
            "seed": lease.seed,
            **{name: None if path is None else str(path) for name, path in paths.items()},
            "method": lease.method,
            "training": lease.training,
            "threads": threads,
            "processes": processes,
            "finish": finish,
            "reliefs": reliefs,
        },
        indent=2,
        sort_keys=True,
    )


def _time(event: EngineEvent) -> Timestamp:
    time = Timestamp()
    time.FromNanoseconds(int(1e9 * _float(event, "time")))
    return time


def _sample(told: EngineEvent) -> pb.Sample:
    return pb.Sample(
        prompt=_end(_text(told, "prompt")),
        expected=_beginning(_text(told, "expected")),
        output=_beginning(_text(told, "output")),
    )


def _beginning(text: str) -> str:
    return text if len(text) <= _SAMPLE_TEXT_LIMIT else f"{text[: _SAMPLE_TEXT_LIMIT - 1]}…"


def _end(text: str) -> str:
    """Of a prompt, what was said last."""
    return text if len(text) <= _SAMPLE_TEXT_LIMIT else f"…{text[1 - _SAMPLE_TEXT_LIMIT :]}"


def _int(event: EngineEvent, field: str) -> int:
    return int(cast(int, event[field]))


def _float(event: EngineEvent, field: str) -> float:
    return float(cast(float, event[field]))


def _text(event: EngineEvent, field: str) -> str:
    """Without what UTF-8 can not hold: a lone surrogate that came over as an escape."""
    return str(event[field]).encode(errors="replace").decode()
