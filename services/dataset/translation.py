"""Proto ⇄ domain, value by value."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from anneal.common.v1 import conversation_pb2
from anneal.dataset.v1 import dataset_pb2
from anneal.dataset.v1 import dataset_service_pb2 as pb
from services.chat.conversation import Message, Role
from services.dataset.domain.contents import Example
from services.dataset.domain.errors import LineFault, Rejection
from services.dataset.domain.header import UploadHeader, UploadRequest
from services.dataset.domain.resources import Dataset, DatasetVersion, SourceFormat

_FORMATS = {
    SourceFormat.CHAT: dataset_pb2.SOURCE_FORMAT_CHAT,
    SourceFormat.PROMPT_COMPLETION: dataset_pb2.SOURCE_FORMAT_PROMPT_COMPLETION,
    SourceFormat.TEXT: dataset_pb2.SOURCE_FORMAT_TEXT,
}
_FORMATS_BY_NUMBER = {number: name for name, number in _FORMATS.items()}
_ROLES = {
    Role.SYSTEM: conversation_pb2.ROLE_SYSTEM,
    Role.USER: conversation_pb2.ROLE_USER,
    Role.ASSISTANT: conversation_pb2.ROLE_ASSISTANT,
}


def upload_header(header: pb.UploadHeader) -> UploadHeader:
    """Raises pydantic.ValidationError with every violation, named `header.…`."""
    values: dict[str, object] = {
        "parent": header.parent,
        "request_id": header.request_id,
        "prompt_field": header.prompt_field,
        "completion_field": header.completion_field,
        "text_field": header.text_field,
        "sha256": header.sha256,
        "validate_only": header.validate_only,
    }
    if header.format != dataset_pb2.SOURCE_FORMAT_UNSPECIFIED:
        values["format"] = _FORMATS_BY_NUMBER.get(header.format, str(header.format))
    return UploadRequest.model_validate({"header": values}).header


def dataset_message(dataset: Dataset) -> dataset_pb2.Dataset:
    return dataset_pb2.Dataset(
        name=str(dataset.name),
        uid=dataset.uid,
        latest_version=str(dataset.latest_version),
        version_count=dataset.version_count,
        create_time=_timestamp(dataset.create_time),
        update_time=_timestamp(dataset.update_time),
        etag=dataset.etag,
    )


def version_message(version: DatasetVersion) -> dataset_pb2.DatasetVersion:
    return dataset_pb2.DatasetVersion(
        name=str(version.name),
        digest=version.digest,
        example_count=version.example_count,
        size_bytes=version.size_bytes,
        source_format=_FORMATS[version.source_format],
        source_digest=version.source_digest,
        create_time=_timestamp(version.create_time),
    )


def example_message(example: Example) -> dataset_pb2.Example:
    if isinstance(example.content, str):
        return dataset_pb2.Example(index=example.index, text=example.content)
    turns = [_turn_message(turn) for turn in example.content]
    return dataset_pb2.Example(index=example.index, messages=turns)


def rejection_message(rejection: Rejection) -> dataset_pb2.UploadRejection:
    return dataset_pb2.UploadRejection(
        faults=map(_fault_message, rejection.faults),
        fault_count=rejection.fault_count,
        line_count=rejection.line_count,
    )


def _fault_message(fault: LineFault) -> dataset_pb2.LineFault:
    return dataset_pb2.LineFault(
        line=fault.line, code=fault.code.value, pointer=fault.pointer, message=fault.message
    )


def _turn_message(turn: Message) -> conversation_pb2.ChatMessage:
    weight = turn.weight if turn.weight != 1.0 else None
    return conversation_pb2.ChatMessage(
        role=_ROLES[turn.role], content=turn.content, train=turn.train, weight=weight
    )


def _timestamp(time: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
