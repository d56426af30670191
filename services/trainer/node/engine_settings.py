"""A leased job's settings → `method` and `training` of the engine's job file.

The engine's fields are named as the proto's, and its words are the enums' in lower case. What an
older service leaves unset stays out of the file, and the engine's own default counts.
"""

from typing import Any

from google.protobuf.message import Message

from anneal.enums import word_of
from anneal.trainer.v1 import tuning_job_pb2 as pb

_ENGINE_NAMES = {"max_gradient_norm": "max_grad_norm"}
_OF_THE_SERVICE = {"auto"}
"""What had its effect before the job was leased."""


def method(job: pb.TuningJob) -> dict[str, object]:
    """Told apart by `kind`. One of a newer service is "unknown", which the engine refuses."""
    kind = job.WhichOneof("method")
    if kind is None:
        return {"kind": "unknown"}
    return {"kind": kind, **_fields(getattr(job, kind))}


def training(job: pb.TuningJob) -> dict[str, object]:
    told = _fields(job.training)
    return {name: value for name, value in told.items() if name not in _OF_THE_SERVICE}


def _fields(message: Message) -> dict[str, object]:
    return {
        _ENGINE_NAMES.get(field.name, field.name): _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if _is_told(message, field)
    }


def _is_told(message: Message, field: Any) -> bool:
    if field.enum_type is not None:
        return getattr(message, field.name) != 0
    return not field.has_presence or message.HasField(field.name)


def _value(field: Any, value: Any) -> object:
    """`field` is a FieldDescriptor, of which protobuf has two classes."""
    if field.enum_type is not None:
        return word_of(field.enum_type, value).lower()
    return list(value) if field.is_repeated else value
