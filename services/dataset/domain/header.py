"""What an upload says about itself, checked whole before its first chunk is read."""

import hashlib
from typing import Annotated, Self

from pydantic import (
    UUID4,
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from services.common.faults import InvalidArgument
from services.dataset.domain.containers.choices import (
    CHUNK_CHARACTERS,
    OVERLAP_CHARACTERS,
    ContainerKind,
    DocumentChoice,
    DocumentKind,
    PackingChoice,
)
from services.dataset.domain.formats import plain_text, prompt_completion
from services.dataset.domain.formats.catalogue import FORMATS, Shape
from services.dataset.domain.names import DatasetName
from services.dataset.domain.resources import SourceFormat

_LATER_FIELDS = ("columns", "container", "document")
"""Unset they are no part of the fingerprint: what was sent to an earlier version is the same."""
_WITHOUT_TOOLS = {prompt_completion.TOOLS: ""}
"""The older fields know of no such column, and drop it."""
_UUID4 = TypeAdapter(UUID4)


def _parse_parent(text: str) -> DatasetName:
    try:
        return DatasetName.parse(text)
    except InvalidArgument as error:
        raise PydanticCustomError(
            "resource_name_invalid", "{problem}", {"problem": error.violations[0].description}
        ) from error


def _require_uuid4(text: str) -> str:
    """A request_id is a UUID4, or empty: then the call is not idempotent."""
    try:
        return str(_UUID4.validate_python(text)) if text else text
    except ValidationError as error:
        raise PydanticCustomError("request_id_invalid", "must be a UUID4") from error


def _sorted(columns: dict[str, str]) -> dict[str, str]:
    """A protobuf map comes in any order, and the fingerprint has to be the same."""
    return dict(sorted(columns.items()))


class DocumentChunks(BaseModel):
    """How a document becomes texts. Raises pydantic.ValidationError."""

    model_config = ConfigDict(frozen=True)

    kind: DocumentKind | None = None
    chunk_characters: int = CHUNK_CHARACTERS
    overlap_characters: int = OVERLAP_CHARACTERS

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.choice()
        return self

    def choice(self) -> DocumentChoice:
        """Raises ValueError."""
        return DocumentChoice(self.kind, self.chunk_characters, self.overlap_characters)


class UploadHeader(BaseModel):
    """The header of an upload. Raises pydantic.ValidationError with every violation.

    `format` None means: as the first readable line says. `columns` are by the format's fields; the
    three fields below it are older names for some of them.
    """

    model_config = ConfigDict(frozen=True)

    parent: Annotated[DatasetName, BeforeValidator(_parse_parent)]
    request_id: Annotated[str, AfterValidator(_require_uuid4)] = ""
    format: SourceFormat | None = None
    columns: Annotated[dict[str, str], AfterValidator(_sorted)] = {}
    container: ContainerKind | None = None
    document: DocumentChunks | None = None
    prompt_field: str = ""
    completion_field: str = ""
    text_field: str = ""
    sha256: Annotated[str, StringConstraints(to_lower=True, pattern=r"^(?:[0-9a-fA-F]{64})?$")] = ""
    validate_only: bool = False

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        if self.text_field and (self.prompt_field or self.completion_field):
            raise ValueError(
                "text_field is for plain texts, prompt_field and completion_field for pairs; an "
                "upload holds only one of the two"
            )
        is_document = self.container is ContainerKind.DOCUMENT
        if self.document and not is_document:
            raise ValueError("document says how a document is read; name that container too")
        shape = self.shape
        if is_document and shape not in (None, Shape(SourceFormat.TEXT)):
            raise ValueError("a document becomes plain texts; leave format and columns out")
        if shape is None:
            if self.columns:
                raise ValueError("columns are named by the fields of a format; name it too")
            return self
        if self._older and self.format not in (shape.format, None):
            format_name = shape.format.value.replace("_", "/")
            raise ValueError(f"the named fields are for the {format_name} format alone")
        _check_columns(shape)
        return self

    @property
    def shape(self) -> Shape | None:
        """None: as the first readable line says."""
        if self.text_field:
            return Shape(SourceFormat.TEXT, {**self._older, **self.columns})
        if self._older:
            columns = {**_WITHOUT_TOOLS, **self._older, **self.columns}
            return Shape(SourceFormat.PROMPT_COMPLETION, columns)
        return Shape(self.format, self.columns) if self.format else None

    @property
    def packing(self) -> PackingChoice:
        document = self.document.choice() if self.document else DocumentChoice()
        return PackingChoice(self.container, document)

    @property
    def _older(self) -> dict[str, str]:
        given = {
            prompt_completion.PROMPT: self.prompt_field,
            prompt_completion.COMPLETION: self.completion_field,
            plain_text.TEXT: self.text_field,
        }
        return {name: column for name, column in given.items() if column}

    def fingerprint(self, source_digest: str) -> str:
        """What tells two uploads of one request_id apart."""
        later_fields = {name for name in _LATER_FIELDS if not getattr(self, name)}
        own = self.model_dump_json(exclude=later_fields)
        return hashlib.sha256(f"{own}{source_digest}".encode()).hexdigest()


def _check_columns(shape: Shape) -> None:
    """Raises ValueError."""
    fields = FORMATS[shape.format].fields
    unknown = sorted(shape.columns.keys() - set(fields))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: the format has {', '.join(fields)}")
    columns = [shape.columns.get(name, name) for name in fields]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)}: two fields must be two columns")


class UploadRequest(BaseModel):
    """The header where the API has it, so that violations name `header.…`."""

    header: UploadHeader
