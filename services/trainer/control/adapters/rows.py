"""Rows ⇄ values of the domain."""

import json
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from sqlalchemy import Row

from services.trainer.control.adapters.tables import AttemptRow, JobRow
from services.trainer.control.domain.attempts import Attempt
from services.trainer.control.domain.endings import Cause, Failure
from services.trainer.control.domain.estimation.architecture import Architecture
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.estimation.sizes import Sizes
from services.trainer.control.domain.job import (
    BaseModelSource,
    HubSource,
    JobSpec,
    ManifestSource,
    Start,
    TuningJob,
)
from services.trainer.control.domain.names import (
    BaseModelName,
    DatasetVersionName,
    ModelName,
    ModelVersionName,
    TuningJobName,
    TuningSweepName,
)
from services.trainer.control.domain.progress import Progress
from services.trainer.control.domain.queue.lines import line_of
from services.trainer.control.domain.resumes import ResumeCertificate
from services.trainer.control.domain.settings import JobSettings
from services.trainer.control.domain.states import State

Values = dict[str, Any]


def fixed_values(job: TuningJob) -> Values:
    """The columns that never change."""
    spec = job.spec
    return {
        "name": str(job.name),
        "uid": job.uid,
        "project": job.name.project,
        "base_model": str(spec.base_model),
        "dataset_version": str(spec.dataset_version),
        "model": str(spec.model),
        "labels": spec.settings.labels,
        "backend": spec.settings.backend.value,
        "tuning_sweep": str(job.sweep) if job.sweep else "",
        "priority": spec.settings.priority.value,
        "line": line_of(job.name.project, spec.settings).key,
        "deadline": spec.settings.deadline_time,
        "retry_of": str(job.retry_of) if job.retry_of else None,
        "origins": json.dumps(job.origins),
        "spec": spec_text(spec),
        "create_time": job.create_time,
    }


def changing_values(job: TuningJob) -> Values:
    return {
        "state": job.state.value,
        "attempt": job.attempt,
        "failures": job.failures,
        "event_count": job.event_count,
        "attempt_event_count": job.attempt_event_count,
        "progress": json.dumps(asdict(job.progress)),
        "failure": json.dumps(asdict(job.failure)) if job.failure else None,
        "resumes": json.dumps([asdict(one) for one in job.resumes]),
        "model_version": job.model_version,
        "node": job.node,
        "retried_as": str(job.retried_as) if job.retried_as else None,
        "yields": job.yields,
        "charged_s": job.charged_s,
        "claim_time": job.claim_time,
        "update_time": job.update_time,
        "ready_time": job.ready_time,
        "lease_expire_time": job.lease_expire_time,
        "start_time": job.start_time,
        "end_time": job.end_time,
    }


def tuning_job(row: JobRow | Row[Any]) -> TuningJob:
    return TuningJob(
        name=TuningJobName.parse(row.name),
        uid=row.uid,
        spec=job_spec(row.base_model, row.dataset_version, row.model, row.spec),
        sweep=TuningSweepName.parse(row.tuning_sweep) if row.tuning_sweep else None,
        state=State(row.state),
        attempt=row.attempt,
        failures=row.failures,
        event_count=row.event_count,
        attempt_event_count=row.attempt_event_count,
        progress=Progress(**json.loads(row.progress)),
        failure=_failure(row.failure),
        resumes=tuple(_certificate(one) for one in json.loads(row.resumes)),
        model_version=row.model_version,
        node=row.node,
        claim_time=row.claim_time,
        charged_s=row.charged_s,
        yields=row.yields,
        retry_of=TuningJobName.parse(row.retry_of) if row.retry_of else None,
        retried_as=TuningJobName.parse(row.retried_as) if row.retried_as else None,
        origins=tuple(json.loads(row.origins)),
        create_time=row.create_time,
        update_time=row.update_time,
        ready_time=row.ready_time,
        lease_expire_time=row.lease_expire_time,
        start_time=row.start_time,
        end_time=row.end_time,
    )


def attempt_values(attempt: Attempt) -> Values:
    return asdict(attempt) | {
        "job": str(attempt.job),
        "request_id": attempt.request_id or None,
    }


def attempt(row: AttemptRow | Row[Any]) -> Attempt:
    return Attempt(
        job=TuningJobName.parse(row.job),
        number=row.number,
        node=row.node,
        request_id=row.request_id or "",
        start_time=row.start_time,
        start_step=row.start_step,
        step=row.step,
        end_time=row.end_time,
        outcome=row.outcome,
        message=row.message,
        mark=row.mark,
    )


def spec_text(spec: JobSpec) -> str:
    return json.dumps(
        {
            "base_model_digest": spec.base_model_digest,
            "base_model_source": asdict(spec.base_model_source),
            "dataset_digest": spec.dataset_digest,
            "settings": spec.settings.model_dump(mode="json"),
            "start": _start_values(spec.start),
            "sizes": _sizes_values(spec.sizes),
        }
    )


@lru_cache(maxsize=1024)
def job_spec(base_model: str, dataset_version: str, model: str, text: str) -> JobSpec:
    """A job is read again and again, and its spec never changes."""
    kept = json.loads(text)
    return JobSpec(
        base_model=BaseModelName.parse(base_model),
        base_model_digest=kept["base_model_digest"],
        base_model_source=_source(kept["base_model_source"]),
        dataset_version=DatasetVersionName.parse(dataset_version),
        dataset_digest=kept["dataset_digest"],
        model=ModelName.parse(model),
        settings=_settings(kept["settings"]),
        start=_start(kept.get("start")),
        sizes=_sizes(kept.get("sizes")),
    )


def _start_values(start: Start | None) -> Values | None:
    if start is None:
        return None
    return {"version": str(start.version), "manifest_digest": start.manifest_digest}


def _start(kept: Values | None) -> Start | None:
    if kept is None:
        return None
    return Start(ModelVersionName.parse(kept["version"]), kept["manifest_digest"])


def _sizes_values(sizes: Sizes | None) -> Values | None:
    if sizes is None:
        return None
    return asdict(sizes) | {"architecture": sizes.architecture.model_dump(mode="json")}


def _sizes(kept: Values | None) -> Sizes | None:
    if kept is None:
        return None
    return Sizes(
        architecture=Architecture.model_validate(kept["architecture"]),
        stored_bytes=kept["stored_bytes"],
        examples=Examples(**kept["examples"]),
    )


def _settings(kept: Values) -> JobSettings:
    """Rows of version 0.1.0 know one method, under its name; what they lack takes its default."""
    if "lora" not in kept:
        return JobSettings.model_validate(kept)
    others = {name: value for name, value in kept.items() if name != "lora"}
    return JobSettings.model_validate({**others, "method": {"kind": "lora", **kept["lora"]}})


def _source(fields: dict[str, str]) -> BaseModelSource:
    return ManifestSource(**fields) if "digest" in fields else HubSource(**fields)


def _certificate(kept: Values) -> ResumeCertificate:
    kept["environment_changes"] = tuple(kept["environment_changes"])
    return ResumeCertificate(**kept)


def _failure(text: str | None) -> Failure | None:
    if text is None:
        return None
    fields = json.loads(text)
    return Failure(Cause(fields["cause"]), fields["message"])
