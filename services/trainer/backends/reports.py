"""What a tool reports, as inside/anneal_reports.py writes it; told apart by `report`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

_FORM = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Began:
    """`software` names the tool and what it stands on, with their versions."""

    __pydantic_config__ = _FORM

    report: Literal["began"]
    total_steps: int
    trainable_parameters: int
    total_parameters: int
    device: str
    software: str


@dataclass(frozen=True, slots=True)
class Stepped:
    """As the engine's StepDone; `tokens` is 0 where they were not counted. Numbers that are none
    (NaN, Infinity) come as Python writes them."""

    __pydantic_config__ = _FORM

    report: Literal["step"]
    step: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The held-out examples after `step`, as in the engine's Evaluated."""

    __pydantic_config__ = _FORM

    report: Literal["evaluated"]
    step: int
    loss: float
    token_accuracy: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The training is over after `step`; the result is not written yet."""

    __pydantic_config__ = _FORM

    report: Literal["ended"]
    step: int


Report = Annotated[Began | Stepped | HeldOut | Ended, Field(discriminator="report")]

REPORT: TypeAdapter[Began | Stepped | HeldOut | Ended] = TypeAdapter(Report)
