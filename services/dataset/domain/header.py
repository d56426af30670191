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
from services.dataset.domain.examples import TextFields
from services.dataset.domain.names import DatasetName
from services.dataset.domain.resources import SourceFormat

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


class UploadHeader(BaseModel):
    """The header of an upload. Raises pydantic.ValidationError with every violation.

    `format` None means: as the first readable line says.
    """

    model_config = ConfigDict(frozen=True)

    parent: Annotated[DatasetName, BeforeValidator(_parse_parent)]
    request_id: Annotated[str, AfterValidator(_require_uuid4)] = ""
    format: SourceFormat | None = None
    prompt_field: str = ""
    completion_field: str = ""
    text_field: str = ""
    sha256: Annotated[str, StringConstraints(to_lower=True, pattern=r"^(?:[0-9a-fA-F]{64})?$")] = ""
    validate_only: bool = False

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        fields = self.fields
        if fields.prompt == fields.completion:
            raise ValueError("prompt_field and completion_field must be two fields")
        if self.text_field and (self.prompt_field or self.completion_field):
            raise ValueError(
                "text_field is for plain texts, prompt_field and completion_field for pairs; an "
                "upload holds only one of the two"
            )
        if fields.named and self.format not in (fields.named, None):
            format_name = fields.named.value.replace("_", "/")
            raise ValueError(f"the named fields are for the {format_name} format alone")
        return self

    @property
    def fields(self) -> TextFields:
        return TextFields(
            self.prompt_field or TextFields.prompt,
            self.completion_field or TextFields.completion,
            self.text_field or TextFields.text,
            named=self._named,
        )

    @property
    def _named(self) -> SourceFormat | None:
        if self.prompt_field or self.completion_field:
            return SourceFormat.PROMPT_COMPLETION
        return SourceFormat.TEXT if self.text_field else None

    def fingerprint(self, source_digest: str) -> str:
        """What tells two uploads of one request_id apart."""
        return hashlib.sha256(f"{self.model_dump_json()}{source_digest}".encode()).hexdigest()


class UploadRequest(BaseModel):
    """The header where the API has it, so that violations name `header.…`."""

    header: UploadHeader
