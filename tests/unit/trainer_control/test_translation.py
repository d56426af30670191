"""What comes in over the bus."""

import math

import pytest

from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from services.trainer.control.domain.progress import (
    Evaluated,
    Remark,
    Resumed,
    Started,
    Stepped,
)
from services.trainer.control.from_proto import Unreadable, telemetry

SUBJECT = "anneal.jobs.default.j.events"


def event(**fields: object) -> job_pb.TuningJobEvent:
    given: dict[str, object] = {"attempt": 2, "attempt_sequence": 5, "log": job_pb.LogLine()}
    return job_pb.TuningJobEvent(**(given | fields))


def test_an_event_is_read_with_its_place() -> None:
    payload = event(step=job_pb.TrainingStep(step=3, loss=math.nan)).SerializeToString()

    heard = telemetry(SUBJECT, payload)

    assert (str(heard.job), heard.attempt, heard.number) == ("projects/default/tuningJobs/j", 2, 5)
    assert isinstance(heard.report, Stepped)
    assert heard.report.step == 3
    assert heard.payload == payload


def test_each_kind_of_event_tells_what_it_tells() -> None:
    started = event(started=job_pb.TrainingStarted(start_step=4, total_steps=9))
    evaluation = event(evaluation=job_pb.Evaluation(loss=1.5))
    samples = event(samples=job_pb.Samples(step=4))
    resumed = event(
        resumed=job_pb.TrainingResumed(
            step=4,
            checkpoint_digest="ab",
            restored_digest="cd",
            environment_changes=["threads 1 → 2"],
        )
    )

    assert telemetry(SUBJECT, started.SerializeToString()).report == Started(4, 9)
    assert telemetry(SUBJECT, evaluation.SerializeToString()).report == Evaluated(1.5)
    assert telemetry(SUBJECT, resumed.SerializeToString()).report == Resumed(
        4, "ab", "cd", exact=False, environment_changes=("threads 1 → 2",)
    )
    relieved = event(relieved=job_pb.TrainingRelieved(step=4))
    for remark in (event(), samples, relieved):
        assert telemetry(SUBJECT, remark.SerializeToString()).report == Remark()


@pytest.mark.parametrize(
    ("subject", "payload"),
    [
        (SUBJECT, b"\xff\xff"),
        (SUBJECT, b""),
        (SUBJECT, event(attempt=0).SerializeToString()),
        (SUBJECT, event(attempt_sequence=0).SerializeToString()),
        (SUBJECT, event(state_change=job_pb.StateChange()).SerializeToString()),
        ("anneal.jobs.default.j.state", event().SerializeToString()),
        ("anneal.jobs.Default.j.events", event().SerializeToString()),
    ],
)
def test_what_no_node_would_say_is_unreadable(subject: str, payload: bytes) -> None:
    with pytest.raises(Unreadable):
        telemetry(subject, payload)
