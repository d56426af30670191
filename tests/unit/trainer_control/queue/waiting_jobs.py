"""Jobs and lines of a queue, without a database."""

from datetime import UTC, datetime, timedelta
from typing import Any

from services.trainer.control.domain.job import JobSpec, ManifestSource, TuningJob
from services.trainer.control.domain.names import (
    BaseModelName,
    DatasetVersionName,
    ModelName,
    TuningJobName,
)
from services.trainer.control.domain.queue.lines import Line
from services.trainer.control.domain.queue.requirements import Priority, Requirements
from services.trainer.control.domain.queue.shares import Demand, Quota, Share, Waiting
from services.trainer.control.domain.settings import Backend, JobSettings

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def line(project: str, priority: Priority = Priority.NORMAL, **wanted: Any) -> Line:
    return Line(project, priority, Backend.BUILTIN, Requirements(**wanted))


def waiting(one: Line, for_s: float = 60.0) -> Waiting:
    since = NOW - timedelta(seconds=for_s)
    return Waiting(one, since, since)


def share(project: str, pass_s: float = 0.0, **quota: Any) -> Share:
    return Share(project, Quota(**quota), pass_s)


def demand(*lines: Waiting, shares: tuple[Share, ...] = (), **running: int) -> Demand:
    return Demand(lines, {one.project: one for one in shares}, running)


def job(project: str, number: int = 1, **fields: Any) -> TuningJob:
    settings = {"method": {"kind": "lora"}, "priority": fields.pop("priority", "NORMAL")}
    settings["requirements"] = fields.pop("requirements", {})
    settings["backend"] = fields.pop("backend", "BUILTIN")
    spec = JobSpec(
        base_model=BaseModelName("tiny-base"),
        base_model_digest="ee" * 32,
        base_model_source=ManifestSource("ee" * 32),
        dataset_version=DatasetVersionName(project, "support", "v-1"),
        dataset_digest="dd" * 32,
        model=ModelName(project, "support"),
        settings=JobSettings.model_validate(settings),
    )
    given: dict[str, Any] = {"create_time": NOW, "update_time": NOW, "ready_time": NOW}
    name = TuningJobName(project, f"job-{number}")
    return TuningJob(name=name, uid=f"{project}-{number}", spec=spec, **given | fields)
