"""What is asked of a model and what it answers."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: Role
    content: str


Conversation = tuple[Turn, ...]


class Sampling(BaseModel):
    """How the next token is chosen; the limits and defaults are the contract's.

    `temperature` 0 is greedy. `top_k` 0 considers every token. `seed` None is random.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    max_output_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    repetition_penalty: Annotated[float, Field(ge=1, le=2)] = 1.0
    seed: int | None = None
    stop_sequences: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=8)
    ] = ()


class FinishReason(StrEnum):
    """Why a generation ended: the model or a stop sequence ended it, or a length was reached."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class Usage:
    """Tokens of the prompt, and tokens generated."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Piece:
    """A piece of an answer; the last one says why it ended."""

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class Score:
    """The cross-entropy of the assistant's tokens, summed, in nats, and how many they are."""

    loss_sum: float
    token_count: int
