"""What the router and a worker say to each other: one JSON object a line, both ways.

Imports nothing heavy: the router uses it too.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from services.inference.domain.generation import FinishReason, Role, Sampling


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_line(self) -> bytes:
        return self.model_dump_json().encode() + b"\n"


class WireTurn(_Line):
    role: Role
    content: str


class Generate(_Line):
    """Answer with pieces, then `End`. `artifacts` is a version's directory; none: the base."""

    type: Literal["generate"] = "generate"
    id: int
    artifacts: str | None
    turns: tuple[WireTurn, ...]
    sampling: Sampling


class ScoreTurns(_Line):
    """Answer with `Scored`."""

    type: Literal["score"] = "score"
    id: int
    artifacts: str | None
    turns: tuple[WireTurn, ...]


class Cancel(_Line):
    """Nobody waits for request `id` any more. It gets no answer."""

    type: Literal["cancel"] = "cancel"
    id: int


class Ready(_Line):
    """The base model is loaded. Sent once, first."""

    type: Literal["ready"] = "ready"


class TextPiece(_Line):
    type: Literal["piece"] = "piece"
    id: int
    text: str


class End(_Line):
    type: Literal["end"] = "end"
    id: int
    finish_reason: FinishReason
    prompt_tokens: int
    output_tokens: int


class Scored(_Line):
    type: Literal["scored"] = "scored"
    id: int
    loss_sum: float
    token_count: int


class TooLong(_Line):
    """The conversation does not fit into the model's context."""

    type: Literal["too_long"] = "too_long"
    id: int
    tokens: int
    limit: int


class Refused(_Line):
    """The conversation can not be used; `message` says why, for the caller."""

    type: Literal["refused"] = "refused"
    id: int
    message: str


class Unusable(_Line):
    """This model answers nobody: its files do not load, or its outputs are no numbers."""

    type: Literal["unusable"] = "unusable"
    id: int
    message: str


Request = Generate | ScoreTurns | Cancel
Answer = Ready | TextPiece | End | Scored | TooLong | Refused | Unusable

_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="type")])


def read_request(line: bytes) -> Request:
    return _REQUEST.validate_json(line)


def read_answer(line: bytes) -> Answer:
    return _ANSWER.validate_json(line)
