"""What pydantic says, in our words."""

from pydantic import BaseModel, Field, ValidationError, field_validator

from services.common.faults import Violation
from services.common.violations import violations_of


class Part(BaseModel):
    count: int = Field(ge=1)


class Whole(BaseModel):
    parts: list[Part]
    name: str

    @field_validator("name")
    @classmethod
    def _is_not_taken(cls, name: str) -> str:
        if name == "taken":
            raise ValueError("is taken")
        return name


def test_every_violation_is_told_by_its_path() -> None:
    error = error_of({"parts": [{"count": 1}, {"count": 0}], "name": "taken"})

    below = "Input should be greater than or equal to 1"
    assert violations_of(error) == [
        Violation("parts.1.count", below, "GREATER_THAN_EQUAL"),
        Violation("name", "is taken", "VALUE_ERROR"),
    ]


def test_a_root_stands_before_every_path() -> None:
    found = violations_of(error_of({"parts": [{"count": 0}]}), "order")

    assert [one.field for one in found] == ["order.parts.0.count", "order.name"]


def error_of(given: dict[str, object]) -> ValidationError:
    try:
        Whole.model_validate(given)
    except ValidationError as error:
        return error
    raise AssertionError("it was accepted")
