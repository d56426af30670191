"""Proto ⇄ domain, value by value."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from anneal.common.v1 import conversation_pb2
from anneal.dataset.v1 import dataset_pb2
from anneal.dataset.v1 import dataset_service_pb2 as pb
from services.chat.contract import Breach
from services.chat.conversation import Conversation, Message, Preference, Role, ToolCall
from services.chat.inspection import Token
from services.dataset.domain.containers.choices import ContainerKind, DocumentKind
from services.dataset.domain.contents import Example
from services.dataset.domain.detecting import Detected
from services.dataset.domain.errors import LineFault, Rejection
from services.dataset.domain.formats.detection import Proposal
from services.dataset.domain.header import UploadHeader, UploadRequest
from services.dataset.domain.masks import DEFAULT_MAX_TOKENS, Asked, Proving, Row, ShownSequence
from services.dataset.domain.names import BaseModelName, VersionName
from services.dataset.domain.resources import Dataset, DatasetVersion, SourceFormat

_FORMATS = {
    SourceFormat.CHAT: dataset_pb2.SOURCE_FORMAT_CHAT,
    SourceFormat.PROMPT_COMPLETION: dataset_pb2.SOURCE_FORMAT_PROMPT_COMPLETION,
    SourceFormat.TEXT: dataset_pb2.SOURCE_FORMAT_TEXT,
    SourceFormat.ALPACA: dataset_pb2.SOURCE_FORMAT_ALPACA,
    SourceFormat.SHAREGPT: dataset_pb2.SOURCE_FORMAT_SHAREGPT,
    SourceFormat.CHATML: dataset_pb2.SOURCE_FORMAT_CHATML,
    SourceFormat.PREFERENCE: dataset_pb2.SOURCE_FORMAT_PREFERENCE,
}
_FORMATS_BY_NUMBER = {number: name for name, number in _FORMATS.items()}
_CONTAINERS = {
    ContainerKind.JSON_LINES: dataset_pb2.CONTAINER_JSON_LINES,
    ContainerKind.JSON_ARRAY: dataset_pb2.CONTAINER_JSON_ARRAY,
    ContainerKind.CSV: dataset_pb2.CONTAINER_CSV,
    ContainerKind.PARQUET: dataset_pb2.CONTAINER_PARQUET,
    ContainerKind.DOCUMENT: dataset_pb2.CONTAINER_DOCUMENT,
}
_CONTAINERS_BY_NUMBER = {number: name for name, number in _CONTAINERS.items()}
_DOCUMENT_KINDS = {
    DocumentKind.TXT: dataset_pb2.DOCUMENT_KIND_TXT,
    DocumentKind.MD: dataset_pb2.DOCUMENT_KIND_MD,
    DocumentKind.HTML: dataset_pb2.DOCUMENT_KIND_HTML,
    DocumentKind.PDF: dataset_pb2.DOCUMENT_KIND_PDF,
    DocumentKind.DOCX: dataset_pb2.DOCUMENT_KIND_DOCX,
}
_DOCUMENT_KINDS_BY_NUMBER = {number: name for name, number in _DOCUMENT_KINDS.items()}
_ROLES = {
    Role.SYSTEM: conversation_pb2.ROLE_SYSTEM,
    Role.USER: conversation_pb2.ROLE_USER,
    Role.ASSISTANT: conversation_pb2.ROLE_ASSISTANT,
    Role.TOOL: conversation_pb2.ROLE_TOOL,
}


def upload_header(header: pb.UploadHeader) -> UploadHeader:
    """Raises pydantic.ValidationError with every violation, named `header.…`."""
    values: dict[str, object] = {
        "parent": header.parent,
        "request_id": header.request_id,
        "prompt_field": header.prompt_field,
        "completion_field": header.completion_field,
        "text_field": header.text_field,
        "columns": dict(header.columns),
        "container": _container(header) if header.container else None,
        "document": _document(header.document) if header.HasField("document") else None,
        "sha256": header.sha256,
        "validate_only": header.validate_only,
    }
    if header.format != dataset_pb2.SOURCE_FORMAT_UNSPECIFIED:
        values["format"] = _FORMATS_BY_NUMBER.get(header.format, str(header.format))
    return UploadRequest.model_validate({"header": values}).header


def _container(header: pb.UploadHeader) -> str:
    """A word that no container has for a number that none has."""
    return _CONTAINERS_BY_NUMBER.get(header.container, str(header.container))


def _document(document: pb.DocumentChunks) -> dict[str, object]:
    """What is said of it."""
    given: dict[str, object] = {}
    if document.kind:
        given["kind"] = _DOCUMENT_KINDS_BY_NUMBER.get(document.kind, str(document.kind))
    if document.chunk_characters:
        given["chunk_characters"] = document.chunk_characters
    if document.HasField("overlap_characters"):
        given["overlap_characters"] = document.overlap_characters
    return given


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
    if isinstance(example.content, Preference):
        message = _conversation_message(example.index, example.content.prompt)
        message.chosen.extend(map(_turn_message, example.content.chosen))
        message.rejected.extend(map(_turn_message, example.content.rejected))
        return message
    return _conversation_message(example.index, example.content)


def _conversation_message(index: int, conversation: Conversation) -> dataset_pb2.Example:
    return dataset_pb2.Example(
        index=index,
        messages=map(_turn_message, conversation),
        tools=conversation.tools,
        parallel_tool_calls=conversation.parallel_tool_calls,
    )


def format_message(detected: Detected) -> dataset_pb2.DatasetFormat:
    told = dataset_pb2.DatasetFormat()
    if detected.container is not None:
        told.container = _CONTAINERS[detected.container]
    if detected.document is not None:
        told.document_kind = _DOCUMENT_KINDS[detected.document]
    if detected.proposal is not None:
        told.MergeFrom(_proposal_message(detected.proposal, detected))
    return told


def _proposal_message(proposal: Proposal, detected: Detected) -> dataset_pb2.DatasetFormat:
    return dataset_pb2.DatasetFormat(
        format=_FORMATS[proposal.shape.format],
        columns=proposal.shape.columns,
        dropped_columns=proposal.dropped,
        row_count=proposal.row_count,
        readable_count=proposal.readable_count,
        examples=map(example_message, detected.examples),
        faults=map(_fault_message, detected.faults),
    )


def asked(request: pb.PreviewTokensRequest | pb.ProveMasksRequest) -> Asked:
    """Raises InvalidArgument."""
    return Asked(
        VersionName.parse(request.name),
        BaseModelName.parse(request.base_model, "base_model"),
        request.max_tokens if request.HasField("max_tokens") else DEFAULT_MAX_TOKENS,
    )


def tokenized_message(row: Row) -> dataset_pb2.TokenizedExample:
    breaches = row.inspection.breaches
    return dataset_pb2.TokenizedExample(
        index=row.index,
        sequences=map(_sequence_message, row.sequences),
        breaches=[_breach_message(row.index, breach) for breach in breaches],
    )


def _sequence_message(sequence: ShownSequence) -> dataset_pb2.TokenizedExample.Sequence:
    return dataset_pb2.TokenizedExample.Sequence(
        tokens=map(_token_message, sequence.tokens),
        token_count=sequence.token_count,
        trained_token_count=sequence.trained_token_count,
        truncated=sequence.truncated,
    )


def _token_message(token: Token) -> dataset_pb2.Token:
    return dataset_pb2.Token(
        id=token.id,
        text=token.text,
        role=_ROLES[token.role] if token.role else conversation_pb2.ROLE_UNSPECIFIED,
        trained=token.trained,
        weight=token.weight,
        cut_off=token.cut_off,
        source=token.source,
    )


def proving_message(proving: Proving) -> pb.ProveMasksResponse:
    proof = proving.proof
    return pb.ProveMasksResponse(
        proof=dataset_pb2.MaskProof(
            row_count=proof.row_count,
            trained_token_count=proof.trained_token_count,
            truncated_row_count=proof.truncated_row_count,
            breaching_row_count=proof.breaching_row_count,
            breaches=[_breach_message(one.row, one.breach) for one in proof.breaches],
            breach_count=proof.breach_count,
        ),
        complete=proving.complete,
        dataset_version=str(proving.version.name),
        base_model_digest=proving.base_model.digest,
    )


def _breach_message(row: int, breach: Breach) -> dataset_pb2.MaskBreach:
    return dataset_pb2.MaskBreach(index=row, code=breach.code.value, message=breach.message)


def rejection_message(rejection: Rejection) -> dataset_pb2.UploadRejection:
    return dataset_pb2.UploadRejection(
        faults=map(_fault_message, rejection.faults),
        fault_count=rejection.fault_count,
        line_count=rejection.line_count,
    )


def _fault_message(fault: LineFault) -> dataset_pb2.LineFault:
    return dataset_pb2.LineFault(
        line=fault.line,
        code=fault.code.value,
        pointer=fault.pointer,
        message=fault.message,
        byte_offset=fault.byte_offset,
    )


def _turn_message(turn: Message) -> conversation_pb2.ChatMessage:
    weight = turn.weight if turn.weight != 1.0 else None
    return conversation_pb2.ChatMessage(
        role=_ROLES[turn.role],
        content=turn.content,
        train=turn.train,
        weight=weight,
        tool_calls=map(_call_message, turn.tool_calls),
        tool_call_id=turn.tool_call_id,
        name=turn.name,
    )


def _call_message(call: ToolCall) -> conversation_pb2.ToolCall:
    return conversation_pb2.ToolCall(id=call.id, name=call.name, arguments=call.arguments)


def _timestamp(time: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
