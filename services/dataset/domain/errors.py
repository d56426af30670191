"""What can go wrong, in the service's own words."""

from dataclasses import dataclass

from services.common.faults import (
    Aborted,
    DataLoss,
    FailedPrecondition,
    Fault,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Violation,
)
from services.dataset.domain.flaws import FlawCode
from services.dataset.domain.names import BaseModelName, DatasetName, VersionName


class DatasetNotFound(NotFound):
    def __init__(self, name: DatasetName) -> None:
        Fault.__init__(self, "DATASET_NOT_FOUND", f"{name} does not exist", resource=name)


class DatasetVersionNotFound(NotFound):
    def __init__(self, name: VersionName) -> None:
        Fault.__init__(self, "DATASET_VERSION_NOT_FOUND", f"{name} does not exist", resource=name)


@dataclass(frozen=True, slots=True)
class LineFault:
    """One flaw of one line. `line` counts from 1; `pointer` is a JSON pointer of ≤ 64 bytes.

    `byte_offset` is where the line begins in the upload, decompressed; None where rows have no
    place of their own.
    """

    line: int
    code: FlawCode
    pointer: str
    message: str
    byte_offset: int | None = None


@dataclass(frozen=True)
class Rejection:
    """Why an upload was refused: its first faults, and how many there are in all."""

    faults: tuple[LineFault, ...]
    fault_count: int
    line_count: int


class UploadRejected(InvalidArgument):
    """Some lines hold no labeled example. Nothing was stored."""

    def __init__(self, rejection: Rejection) -> None:
        first = rejection.faults[0]
        place = f"line {first.line}{f' at {first.pointer}' if first.pointer else ''}"
        faults = "1 fault" if rejection.fault_count == 1 else f"{rejection.fault_count} faults"
        text = f"{faults} in {rejection.line_count} lines; {place}: {first.code}, {first.message}"
        super().__init__(
            [Violation("chunk", text, "UPLOAD_REJECTED")],
            payload=rejection,
            fault_count=rejection.fault_count,
            line_count=rejection.line_count,
        )


class EmptyUpload(InvalidArgument):
    """There is no line in the upload but blank ones."""

    def __init__(self) -> None:
        text = "the upload holds no example; send at least one line"
        super().__init__([Violation("chunk", text, "EMPTY_UPLOAD")])


class HeaderMissing(InvalidArgument):
    """The first message of an upload is not its header."""

    def __init__(self) -> None:
        text = "the first message of an upload must be its header"
        super().__init__([Violation("header", text, "HEADER_MISSING")])


class ChunkMissing(InvalidArgument):
    """A message after the first one is not a chunk."""

    def __init__(self) -> None:
        text = "every message after the header must be a chunk"
        super().__init__([Violation("chunk", text, "CHUNK_MISSING")])


class ChunkTooLarge(InvalidArgument):
    """A chunk is larger than the API allows."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        text = f"{size_bytes} bytes are too many for one chunk; send at most {limit_bytes}"
        violation = Violation("chunk", text, "CHUNK_TOO_LARGE")
        super().__init__([violation], size_bytes=size_bytes, limit_bytes=limit_bytes)


class DigestMismatch(InvalidArgument):
    """What arrived is not what the caller says it sent."""

    def __init__(self, announced: str, received: str) -> None:
        text = f"the chunks have the sha256 {received}; send them again"
        violation = Violation("header.sha256", text, "DIGEST_MISMATCH")
        super().__init__([violation], announced=announced, received=received)


class UploadTooLarge(ResourceExhausted):
    """The upload is larger than this server takes."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            "UPLOAD_TOO_LARGE",
            f"an upload may have {limit_bytes} bytes; split the dataset",
            limit_bytes=limit_bytes,
        )


class DecompressedTooLarge(ResourceExhausted):
    """What a compressed upload holds is larger than this server takes."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            "DECOMPRESSED_TOO_LARGE",
            f"an upload may have {limit_bytes} bytes when it is decompressed; split the dataset",
            limit_bytes=limit_bytes,
        )


class VersionIdTaken(FailedPrecondition):
    """Two digests begin alike, so that their versions would have one id."""

    def __init__(self, name: VersionName, digest: str) -> None:
        super().__init__(
            "VERSION_ID_TAKEN",
            "another set of examples has this version id by chance; add or leave out an example",
            resource=name,
            digest=digest,
        )


class RequestForgotten(Aborted):
    """The record of a request_id was dropped, being old, while the upload was sent once more."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            "REQUEST_FORGOTTEN",
            "this request_id is too old to be answered again; upload with a new one",
            request_id=request_id,
        )


class VersionDamaged(DataLoss):
    """The stored bytes of a version are not those that were stored."""

    def __init__(self, name: VersionName) -> None:
        super().__init__(
            "VERSION_DAMAGED",
            "the stored file is damaged; restore the blob from a backup",
            resource=name,
        )


class RegistryUnknown(FailedPrecondition):
    """This service is told of no registry, which alone knows the base models."""

    def __init__(self) -> None:
        text = "this service knows no registry; set ANNEAL_REGISTRY_ADDRESS"
        super().__init__("REGISTRY_UNKNOWN", text)


class BaseModelNotFound(NotFound):
    def __init__(self, name: BaseModelName) -> None:
        text = f"{name} is not on the registry's list"
        Fault.__init__(self, "BASE_MODEL_NOT_FOUND", text, resource=name)


class BaseModelElsewhere(FailedPrecondition):
    """A hub has the base model's files, and this installation has not."""

    def __init__(self, name: BaseModelName) -> None:
        super().__init__(
            "BASE_MODEL_ELSEWHERE",
            f"the files of {name} are a hub's; list a directory of them with the registry",
            resource=name,
        )


class TokenizerUnusable(FailedPrecondition):
    """The base model's files hold no tokenizer that can be read."""

    def __init__(self, name: BaseModelName, why: str) -> None:
        super().__init__("TOKENIZER_UNUSABLE", f"{name}: {why}", resource=name, why=why)


class ChatTemplateUnsupported(FailedPrecondition):
    """The base model has no chat template that writes conversations."""

    def __init__(self, name: BaseModelName, why: str) -> None:
        super().__init__("TEMPLATE_UNSUPPORTED", f"{name}: {why}", resource=name, why=why)


class PreferencesUnsupported(FailedPrecondition):
    """No training reads preferences, so there are no tokens that it would see."""

    def __init__(self, name: VersionName) -> None:
        text = f"{name} holds preferences, which no job trains on"
        super().__init__("PREFERENCES_UNSUPPORTED", text, resource=name)


class RowOutOfRange(InvalidArgument):
    """The version has fewer rows."""

    def __init__(self, row: int, row_count: int) -> None:
        text = f"{row} is none of the rows 0 to {row_count - 1}"
        violation = Violation("first_row", text, "ROW_OUT_OF_RANGE")
        super().__init__([violation], row=row, row_count=row_count)
