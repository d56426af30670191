"""`anneal.jobs.succeeded` → what a finished job has to say."""

from typing import Any

from google.protobuf.message import Message as Proto

from anneal.trainer.v1.tuning_job_pb2 import TuningJob, TuningJobSucceeded
from services.common.bus import Message
from services.common.manifest import JSON
from services.registry.domain.models import FinishedJob, Lineage
from services.registry.domain.names import ModelName
from services.registry.domain.ports import Tables
from services.registry.domain.registrar import Registrar

SUBJECT = "anneal.jobs.succeeded"
DURABLE = "registry"


class SucceededJobs:
    """What the consumer of the subject does with each message."""

    def __init__(self, registrar: Registrar) -> None:
        self._registrar = registrar

    async def handle(self, tables: Tables, message: Message) -> None:
        """Raises ValueError or DecodeError for a message that is none of the trainer's."""
        await self._registrar.register(tables, finished_job(message.payload))


def finished_job(payload: bytes) -> FinishedJob:
    event = TuningJobSucceeded.FromString(payload)
    job = event.job
    method = job.WhichOneof("method")
    if method is None:
        raise ValueError(f"{job.name} says no method")
    return FinishedJob(
        model=ModelName.parse(job.model, "job.model"),
        manifest_digest=event.manifest_digest,
        lineage=Lineage(
            tuning_job=job.name,
            dataset_version=job.dataset_version,
            dataset_digest=event.dataset_digest,
            base_model=job.base_model,
            base_model_digest=event.base_model_digest,
            method=method,
            hyperparameters=_hyperparameters(job, method),
            code_version=event.code_version,
            start_version=job.start_version,
        ),
        metrics=dict(event.metrics),
    )


def _hyperparameters(job: TuningJob, method: str) -> dict[str, JSON]:
    """Everything that shaped the run: the method's own fields, the training's, and the seed."""
    own: Proto = getattr(job, method)
    return {**_fields(own), **_fields(job.training), "seed": job.seed}


def _fields(message: Proto) -> dict[str, JSON]:
    """Every scalar field with its name in the proto; enums as the lower-case end of theirs."""
    return {
        field.name: _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _value(field: Any, value: Any) -> JSON:
    """`field` is a FieldDescriptor, of which protobuf has two classes."""
    if field.enum_type is not None:
        return _enum_value(field.enum_type, value)
    return list(value) if field.is_repeated else value


def _enum_value(kind: Any, number: int) -> str:
    """`SCHEDULE_COSINE` of the enum Schedule is `cosine`."""
    known = kind.values_by_number.get(number)
    if known is None:
        return str(number)
    return str(known.name).removeprefix(f"{kind.name.upper()}_").lower()
